"""A sleeping host: what its players see, and that what they do has it woken."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from moonlight.wake import magic_packet, parse_mac
from simulator.light_client import StreamWish
from simulator.light_errors import ClientFailed
from tests.e2e.deployment import HostPlan, deployed
from tests.e2e.light_player import Player
from tests.waiting import until

SLEEPER_MAC = "02:00:5e:10:00:01"
WAKE = """
[wake]
ports = []
min_interval_s = 5
hosts = [{ backend = "one/host", via_agent = "two", neighbour = "gaming-pc" }]
"""


@asynccontextmanager
async def sleeping_machine() -> AsyncIterator[trio.socket.SocketType]:
    """Hear what is broadcast on the loopback network."""
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        await card.bind(("127.255.255.255", 0))
        yield card


async def woken(card: trio.socket.SocketType) -> bool:
    with trio.fail_after(10):
        return await card.recv(200) == magic_packet(parse_mac(SLEEPER_MAC))


async def test_a_magic_packet_has_a_sleeping_host_woken_and_a_launch_says_so(
    tmp_path: Path,
) -> None:
    async with sleeping_machine() as card:
        neighbour = f"""
[[neighbours]]
name = "gaming-pc"
mac = "{SLEEPER_MAC}"
broadcast = "127.255.255.255"
port = {card.getsockname()[1]}
"""
        plans = (HostPlan("one"), HostPlan("two", apps=(), settings=neighbour))
        async with deployed(tmp_path, *plans, settings=WAKE) as deployment:
            anna = await Player.at(deployment, "127.11.0.1")
            mac = parse_mac((await anna.client._http.serverinfo()).mac)
            (app, *_) = await anna.client.apps()
            deployment.agents["one"].cancel()
            await until(lambda: not deployment.is_up("one/host"))

            listen = deployment.config.listen
            with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                for port in listen.udp_ports:
                    await client.sendto(magic_packet(mac), ("127.0.0.1", port))
            assert await woken(card)

            with pytest.raises(ClientFailed, match="is being woken"):
                async with anna.client.playing(
                    StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)
                ):
                    raise AssertionError("a sleeping host plays")
            async with deployment.admin() as admin:
                wakes = [e for e in await admin.get_all("/api/v1/events") if e["kind"] == "wake"]
            assert [(wake["subject"], wake["outcome"]) for wake in wakes] == [
                ("one/host", "agent_sent")
            ]
