"""The agent wakes machines on its own list, and no others."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from agent import neighbours
from agent.config import NeighbourConfig
from agent.errors import NeighbourError
from agent.neighbours import Neighbours
from moonlight.wake import magic_packet, parse_mac

MAC = "02:00:5e:10:00:01"


@asynccontextmanager
async def sleeper() -> AsyncIterator[trio.socket.SocketType]:
    """A machine that hears what is broadcast on the loopback network."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as heard:
        heard.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        await heard.bind(("127.255.255.255", 0))
        yield heard


def neighbour(port: int, broadcast: str = "127.255.255.255") -> NeighbourConfig:
    return NeighbourConfig.model_validate(
        {"name": "pc", "mac": MAC, "broadcast": broadcast, "port": port}
    )


async def test_a_neighbour_hears_its_magic_packet_by_broadcast() -> None:
    async with sleeper() as heard:
        await Neighbours([neighbour(heard.getsockname()[1])]).wake("pc")
        with trio.fail_after(5):
            for _ in range(neighbours.copies):
                assert await heard.recv(200) == magic_packet(parse_mac(MAC))


async def test_one_that_has_just_been_woken_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    sent = []

    async def send(known: NeighbourConfig) -> None:
        sent.append(known.name)

    monkeypatch.setattr(neighbours, "_send", send)
    known = Neighbours([neighbour(9)])
    for _ in range(3):
        await known.wake("pc")
    assert sent == ["pc"]
    autojump_clock.jump(neighbours.min_interval_s)
    await known.wake("pc")
    assert sent == ["pc", "pc"]


@pytest.mark.parametrize("name", ["nas", MAC, ""])
async def test_nobody_else_is_woken(name: str) -> None:
    with pytest.raises(NeighbourError) as caught:
        await Neighbours([neighbour(9)]).wake(name)
    assert caught.value.reason == "unknown_neighbour"


async def test_a_network_that_cannot_be_reached_is_told() -> None:
    # The kernel refuses port 0 everywhere, where routes differ between machines.
    unreachable = neighbour(9).model_copy(update={"port": 0})
    with pytest.raises(NeighbourError, match="for pc cannot be sent to") as caught:
        await Neighbours([unreachable]).wake("pc")
    assert caught.value.reason == "wake_not_sent"


async def test_other_neighbours_take_their_place() -> None:
    known = Neighbours([neighbour(9)])
    known.apply([])
    with pytest.raises(NeighbourError, match="no such neighbour"):
        await known.wake("pc")
