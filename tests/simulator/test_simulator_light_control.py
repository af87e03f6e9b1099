"""The light client's control stream as a host sees it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import pytest
import trio

from moonlight.control import ControlCipher, ControlKind, ControlMessage, termination_payload
from moonlight.enet_peer import Connected, Disconnected, EnetEvent, EnetPeer, Received
from simulator.light_control import LightControl
from simulator.light_errors import ClientFailed
from simulator.light_http import Target
from simulator.light_udp import LightSocket
from simulator.ownership import Whose
from tests.waiting import until

KEY = bytes(range(16))
CONNECT_DATA = 4711
DEADLINE_S = 10.0


class Host:
    """The other end, which answers until it is cancelled."""

    def __init__(self) -> None:
        self.socket = trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.peer = EnetPeer.server()
        self.cipher = ControlCipher(KEY, "host")
        self.heard: list[tuple[int, ControlMessage]] = []
        self.events: list[EnetEvent] = []
        self.changed = trio.Condition()
        self.address: tuple[str, int] | None = None

    @property
    def port(self) -> int:
        return int(self.socket.getsockname()[1])

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        await self.socket.bind(("127.0.0.1", 0))
        task_status.started()
        while True:
            datagram, self.address = await self.socket.recvfrom(2048)
            for event in self.peer.receive(datagram, _now_ms()):
                self.events.append(event)
                if isinstance(event, Received):
                    self.heard.append((event.channel, self.cipher.open(event.data)))
            await self.flush()
            async with self.changed:
                self.changed.notify_all()

    async def flush(self) -> None:
        for datagram in self.peer.datagrams(_now_ms()):
            await self.socket.sendto(datagram, self.address)

    async def hears(self, count: int) -> None:
        async with self.changed:
            while len(self.heard) < count:
                await self.changed.wait()


def _now_ms() -> int:
    return int(trio.current_time() * 1000)


@pytest.fixture
async def host(nursery: trio.Nursery) -> AsyncIterator[Host]:
    there = Host()
    with there.socket:
        await nursery.start(there.run)
        yield there
        nursery.cancel_scope.cancel()


@pytest.fixture
async def control(host: Host) -> AsyncIterator[LightControl]:
    near = LightSocket(Target("127.0.0.1", 0), host.port)
    peer = EnetPeer.client(connect_data=CONNECT_DATA)
    yield LightControl(near, peer, ControlCipher(KEY, "client"))
    near.close()


async def test_begins_the_stream_pings_it_and_says_goodbye(
    host: Host, control: LightControl, nursery: trio.Nursery
) -> None:
    with trio.fail_after(DEADLINE_S):
        await control.connect()
        scope = trio.CancelScope()

        async def run() -> None:
            with scope:
                await control.run()

        nursery.start_soon(run)
        await host.hears(5)
        scope.cancel()
        control.request_idr()
        await host.hears(6)
        await control.leave()

    assert host.events[0] == Connected(CONNECT_DATA)
    kinds = [(channel, message.kind) for channel, message in host.heard]
    assert kinds[:2] == [(0, ControlKind.REQUEST_IDR), (0, ControlKind.START_B)]
    assert kinds[2:5] == [(0, ControlKind.PERIODIC_PING)] * 3
    assert (1, ControlKind.REQUEST_IDR) in kinds[5:]
    assert host.events[-1] == Disconnected("remote")
    assert control._peer.closed
    assert len(control.round_trips.samples_ms) >= 3


async def test_a_termination_ends_it(host: Host, control: LightControl) -> None:
    with trio.fail_after(DEADLINE_S):
        await control.connect()
        await host.hears(2)
        host.peer.send(1, host.cipher.seal(ControlKind.TERMINATION, termination_payload()))
        await host.flush()
        with pytest.raises(ClientFailed, match="0x80030023") as failed:
            await control.run()
    assert failed.value.reason == "ended_by_host"


async def test_what_another_key_has_sealed_is_another_sessions(
    host: Host, control: LightControl, nursery: trio.Nursery
) -> None:
    with trio.fail_after(DEADLINE_S):
        await control.connect()
        await host.hears(2)
        assert control.whose is Whose.UNNAMED  # acknowledgements are sealed by nobody
        nursery.start_soon(control.run)
        host.peer.send(1, host.cipher.seal(ControlKind.HDR_MODE))
        await host.flush()
        await until(lambda: control.whose is Whose.OWN)
        host.peer.send(1, ControlCipher(bytes(16), "host").seal(ControlKind.HDR_MODE))
        await host.flush()
        await until(lambda: control.foreign > 0)
    assert control.whose is Whose.FOREIGN


async def test_noise_has_no_effect(host: Host, control: LightControl) -> None:
    with trio.fail_after(DEADLINE_S):
        await control.connect()
        await host.hears(2)
        await host.socket.sendto(b"\0", host.address)
        host.peer.send(1, b"short")
        await host.flush()
        with trio.move_on_after(0.05):
            await control.run()
        await control.leave()
    assert control._peer.closed


async def test_a_host_that_does_not_answer_is_told(
    control: LightControl, monkeypatch: pytest.MonkeyPatch, host: Host
) -> None:
    monkeypatch.setattr("simulator.light_control.CONNECT_TIMEOUT_S", 0.05)
    monkeypatch.setattr(host.peer, "datagrams", lambda _: [])
    with pytest.raises(ClientFailed) as failed:
        await control.connect()
    assert failed.value.reason == "control_connect_timeout"
