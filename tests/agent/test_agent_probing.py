"""The agent sends probes to the edge that it dials: few, seldom, and to nobody else."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any

import pytest
import trio
import trio.testing

from agent import probing
from agent.probing import UdpProbes
from revdial.errors import RequestFailed
from revdial.probes import datagrams_a_port, nonce_of

NONCE = bytes(range(16))
ONE_PORT = {"nonce": NONCE.hex(), "ports": [1]}


@pytest.fixture
def ports() -> Iterator[list[socket.socket]]:
    """Two UDP ports of an edge."""
    opened = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in range(2)]
    for port in opened:
        port.bind(("127.0.0.1", 0))
        port.setblocking(False)
    yield opened
    for port in opened:
        port.close()


def asked(ports: list[socket.socket], **more: Any) -> dict[str, Any]:
    return {"nonce": NONCE.hex(), "ports": [port.getsockname()[1] for port in ports], **more}


def heard(port: socket.socket) -> list[bytes]:
    datagrams = []
    while True:
        try:
            datagrams.append(port.recv(100))
        except BlockingIOError:
            return datagrams


async def test_every_port_gets_its_probes_and_the_edge_is_told_where_they_went(
    ports: list[socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    told = await UdpProbes("wss://127.0.0.1:443/edge").send(asked(ports))

    assert told == {"host": "127.0.0.1", "sent": 2 * datagrams_a_port}
    for port in ports:
        assert [nonce_of(datagram) for datagram in heard(port)] == [NONCE] * datagrams_a_port


async def test_an_address_that_the_edge_names_is_not_looked_at(
    ports: list[socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    looked_up: list[str] = []

    async def resolve(host: str) -> list[Any]:
        looked_up.append(host)
        await trio.lowlevel.checkpoint()
        return [(socket.AF_INET, 2, 17, "", ("127.0.0.1", 0))] * 5

    probes = UdpProbes("wss://Play.Example.Org", resolve)
    told = await probes.send(asked(ports, host="10.0.0.1", address="10.0.0.1"))

    assert looked_up == ["play.example.org"]
    assert told == {"host": "play.example.org", "sent": 2 * datagrams_a_port}


async def test_probes_are_sent_once_in_ten_seconds(
    ports: list[socket.socket], autojump_clock: trio.testing.MockClock
) -> None:
    probes = UdpProbes("ws://127.0.0.1")
    await probes.send(asked(ports))
    heard(ports[0])
    with pytest.raises(RequestFailed) as caught:
        await probes.send(asked(ports))
    assert caught.value.reason == "probe_too_soon"
    assert heard(ports[0]) == []
    await trio.sleep(probing.min_interval_s)
    await probes.send(asked(ports))
    assert len(heard(ports[0])) == datagrams_a_port


async def test_nothing_is_sent_for_a_request_that_is_none(ports: list[socket.socket]) -> None:
    probes = UdpProbes("ws://127.0.0.1")
    with pytest.raises(RequestFailed) as caught:
        await probes.send(asked(ports * 2))
    assert caught.value.reason == "bad_request"
    assert heard(ports[0]) == []


async def test_an_edge_that_cannot_be_looked_up_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def nobody(host: str) -> list[Any]:
        await trio.lowlevel.checkpoint()
        raise socket.gaierror("no such name")

    async def silence(host: str) -> list[Any]:
        await trio.sleep_forever()
        return []

    for resolve in (nobody, silence):
        with pytest.raises(RequestFailed) as caught:
            await UdpProbes("wss://play.example.org", resolve).send(ONE_PORT)
        assert caught.value.reason == "edge_not_resolved"


async def test_an_edge_without_a_way_there_is_told(
    autojump_clock: trio.testing.MockClock,
) -> None:
    async def unreachable(host: str) -> list[Any]:
        await trio.lowlevel.checkpoint()
        # A socket that is not allowed to broadcast.
        return [(socket.AF_INET, 2, 17, "", ("255.255.255.255", 0))]

    with pytest.raises(RequestFailed) as caught:
        await UdpProbes("wss://play.example.org", unreachable).send(ONE_PORT)
    assert caught.value.reason == "nothing_sent"
