"""The one task that writes a control WebSocket, in order and with one deadline for the peer.

Callers only queue, and may be cancelled while they wait for room.
"""

from __future__ import annotations

import trio
from websockets.exceptions import ConnectionClosed

from revdial.errors import TunnelClosed
from revdial.messages import FromAgent, FromEdge, encode
from revdial.observer import Loss, TunnelObserver
from revdial.websocket import TunnelWebSocket

max_queued_control_messages = 64
send_timeout_s = 10.0


class Outbox:
    """Control messages on their way to the peer, in order."""

    def __init__(self, websocket: TunnelWebSocket, observer: TunnelObserver) -> None:
        self._websocket = websocket
        self._observer = observer
        self._in, self._out = trio.open_memory_channel[str](max_queued_control_messages)

    async def put(self, message: FromAgent | FromEdge) -> None:
        """Queue a message; waits while the queue is full, `TunnelClosed` when it has ended."""
        text = encode(message)
        try:
            await self._in.send(text)
        except trio.BrokenResourceError:
            raise TunnelClosed from None

    async def run(self) -> None:
        """Write until the connection ends, or the peer does not take a message in time."""
        with self._out:
            async for text in self._out:
                try:
                    with trio.fail_after(send_timeout_s):
                        await self._websocket.send(text)
                except ConnectionClosed:
                    return
                except trio.TooSlowError:
                    self._observer.lost(Loss.SEND_TIMEOUT)
                    await self._websocket.abort()
                    return
