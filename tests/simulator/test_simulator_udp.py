"""A simulated host's UDP port."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing

from simulator.udp import UdpPort


async def test_what_has_arrived_is_taken_all_at_once() -> None:
    port = UdpPort("127.0.0.1", 0)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("127.0.0.1", 0))
        sent = [bytes([number]) for number in range(64)]
        for datagram in [*sent, b"one more"]:
            client.sendto(datagram, ("127.0.0.1", port.port))
        address = client.getsockname()
        assert await port.receive() == [(datagram, address) for datagram in sent]
        assert await port.receive() == [(b"one more", address)]
    port.close()


async def test_a_port_that_closes_ends_the_wait() -> None:
    port = UdpPort("127.0.0.1", 0)

    async def wait() -> None:
        with pytest.raises(trio.ClosedResourceError):
            await port.receive()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        port.close()
    await wait()
