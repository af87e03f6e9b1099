"""A whole agent against a real listener: hello, heartbeats, streams, flows, PINs, refusals."""

from __future__ import annotations

import importlib.metadata
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trio.testing
import trustme
from fake_wolf import FakeWolf, fake_wolf
from structlog.testing import capture_logs

from agent.config import AgentConfig, HostConfig
from agent.service import _ConfirmPin, _own_address, _software, run_agent
from revdial.errors import DialRefused, RequestFailed
from revdial.framing import gather
from revdial.listener import TunnelListener
from revdial.messages import AppOffer, Heartbeat
from revdial.tunnel import AgentTunnel
from settings import ConfigError
from tests.waiting import until

TOKEN = "hunter2-hunter2"
PIN = "0042"


@dataclass
class Edge:
    """A listener for agents, with the tunnels as they come."""

    url: str
    tunnels: trio.MemoryReceiveChannel[AgentTunnel]

    async def tunnel(self) -> AgentTunnel:
        with trio.fail_after(5):
            return await self.tunnels.receive()


@asynccontextmanager
async def edge(tls: ssl.SSLContext | None = None) -> AsyncIterator[Edge]:
    arrived, tunnels = trio.open_memory_channel[AgentTunnel](16)

    async def authenticate(token: str) -> str | None:
        return "alpha" if token == TOKEN else None

    async def on_agent(tunnel: AgentTunnel) -> None:
        await arrived.send(tunnel)
        await tunnel.closed.wait()

    listener = TunnelListener(authenticate=authenticate, on_agent=on_agent)
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = sockets[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve, sockets, tls)
        yield Edge(f"{'ws' if tls is None else 'wss'}://localhost:{port}", tunnels)
        nursery.cancel_scope.cancel()


@dataclass
class Host:
    """Something that answers on a host's ports and shouts back what it hears."""

    http_port: int
    udp: trio.socket.SocketType
    wolf: FakeWolf
    seen: list[str]

    @property
    def udp_port(self) -> int:
        return int(self.udp.getsockname()[1])

    def config(self, **settings: Any) -> dict[str, Any]:
        return {
            "name": "wolf",
            "http_port": self.http_port,
            "https_port": self.http_port,
            "rtsp_port": self.http_port,
            "udp_ports": str(self.udp_port),
            "wolf_socket": str(self.wolf.path),
            **settings,
        }


@asynccontextmanager
async def host(tmp_path: Path) -> AsyncIterator[Host]:
    seen: list[str] = []

    async def shout(stream: trio.SocketStream) -> None:
        seen.append(stream.socket.getpeername()[0])
        async for piece in stream:
            await stream.send_all(piece.upper())

    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        await udp.bind(("127.0.0.1", 0))
        async with fake_wolf(tmp_path / "wolf.sock") as wolf, trio.open_nursery() as nursery:
            (tcp,) = await nursery.start(partial(trio.serve_tcp, shout, 0, host="127.0.0.1"))
            wolf.script("GET", "/apps", {"apps": [{"title": "Desktop", "id": "7"}]})
            wolf.script("GET", "/sessions", {"sessions": []})
            yield Host(tcp.socket.getsockname()[1], udp, wolf, seen)
            nursery.cancel_scope.cancel()


def agent_config(url: str, *hosts: dict[str, Any], **edge_settings: Any) -> AgentConfig:
    identity = {"id": "alpha", "region": "eu", "latitude": 50.1, "longitude": 8.7}
    home = {"url": url, "token": TOKEN, **edge_settings}
    return AgentConfig.model_validate({"edge": home, "agent": identity, "hosts": hosts})


@asynccontextmanager
async def connected(tmp_path: Path, **settings: Any) -> AsyncIterator[tuple[AgentTunnel, Host]]:
    async with edge() as it, host(tmp_path) as there, trio.open_nursery() as nursery:
        with trio.fail_after(10):
            await nursery.start(run_agent, agent_config(it.url, there.config(**settings)))
            yield await it.tunnel(), there
        nursery.cancel_scope.cancel()


async def test_an_agent_introduces_itself_and_its_hosts(tmp_path: Path) -> None:
    async with connected(tmp_path) as (tunnel, there):
        hello = tunnel.hello
        assert (hello.agent_id, hello.region) == ("alpha", "eu")
        assert (hello.latitude, hello.longitude) == (50.1, 8.7)
        assert hello.software.startswith("moonhost")
        (offer,) = hello.hosts
        assert (offer.name, offer.http_port) == ("wolf", there.http_port)
        assert offer.apps == (AppOffer("Desktop", 7),)
        report = (await tunnel.heartbeats.receive()).hosts[0]
        assert report.reachable
        assert (report.sessions, report.apps) == (0, None)
        assert (tunnel.last_heartbeat or Heartbeat()).memory_total_bytes


async def test_a_stream_reaches_the_host_from_its_origins_address(tmp_path: Path) -> None:
    async with connected(tmp_path) as (tunnel, there):
        there.seen.clear()
        async with await tunnel.open_stream("wolf", "https", origin="session-1") as stream:
            await stream.send_all(b"hello")
            assert await stream.receive_some() == b"HELLO"
            await stream.send_eof()
            assert await stream.receive_some() == b""
        assert [seen for seen in there.seen if seen != "127.0.0.1"] != []


async def test_a_flow_outlives_its_tunnel(tmp_path: Path) -> None:
    async with edge() as it, host(tmp_path) as there, trio.open_nursery() as nursery:
        await nursery.start(run_agent, agent_config(it.url, there.config()))
        addresses = []
        for _ in range(2):
            tunnel = await it.tunnel()
            channel = await tunnel.open_flow(
                "wolf", there.udp_port, origin="session-1", session="session-1", flow="video"
            )
            channel.send_batch(list(gather([b"ping"])))
            with trio.fail_after(5):
                data, address = await there.udp.recvfrom(100)
                assert data == b"ping"
                addresses.append(address)
                await there.udp.sendto(b"picture", address)
                batch = await channel.receive_batch()
            assert [bytes(each) for each in batch.datagrams()] == [b"picture"]
            await tunnel.aclose()
        assert addresses[0] == addresses[1]
        nursery.cancel_scope.cancel()


async def test_the_pin_is_confirmed_for_the_origins_address(tmp_path: Path) -> None:
    async with connected(tmp_path) as (tunnel, there):
        there.seen.clear()
        async with await tunnel.open_stream("wolf", "http", origin="pair-1") as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
            pairing_address = next(seen for seen in there.seen if seen != "127.0.0.1")
            wolf = there.wolf
            wolf.script("POST", "/pair/client", {"success": True})
            pending = wolf.pending(("theirs", "127.64.1.1"), ("ours", pairing_address))
            wolf.script("GET", "/pair/pending", pending)
            with capture_logs() as logs:
                params = {"host": "wolf", "pin": PIN, "origin": "pair-1"}
                assert await tunnel.request("confirm_pin", params) == {}
        assert wolf.asked("POST", "/pair/client") == [{"pair_secret": "ours", "pin": PIN}]
        assert PIN not in str(logs)


async def test_a_host_that_sees_no_source_addresses_is_dialled_from_one_and_asked_for_another(
    tmp_path: Path,
) -> None:
    hidden = {"source_addresses": "never", "seen_as": "172.17.0.1"}
    async with connected(tmp_path, **hidden) as (tunnel, there):
        assert not tunnel.hello.hosts[0].own_addresses
        there.seen.clear()
        async with await tunnel.open_stream("wolf", "http", origin="s1") as stream:
            await stream.send_all(b"x")
            await stream.receive_some()
        assert set(there.seen) == {"127.0.0.1"}
        wolf = there.wolf
        wolf.script("POST", "/pair/client", {"success": True})
        wolf.script("GET", "/pair/pending", wolf.pending())
        earlier_is_over = trio.Event()
        async with trio.open_nursery() as nursery:

            async def an_earlier_one() -> None:
                params = {"host": "wolf", "pin": "9999", "origin": "pair-0"}
                with pytest.raises(RequestFailed) as caught:
                    await tunnel.request("confirm_pin", params)
                assert caught.value.reason == "superseded"
                earlier_is_over.set()

            nursery.start_soon(an_earlier_one)
            await until(lambda: bool(wolf.asked("GET", "/pair/pending")))
            ours = {"host": "wolf", "pin": PIN, "origin": "pair-1"}
            nursery.start_soon(tunnel.request, "confirm_pin", ours)
            await until(earlier_is_over.is_set)
            wolf.script("GET", "/pair/pending", wolf.pending(("ours", "172.17.0.1")))
        assert wolf.asked("POST", "/pair/client") == [{"pair_secret": "ours", "pin": PIN}]


@pytest.mark.parametrize(
    ("method", "params", "reason"),
    [
        ("reboot", {}, "unknown_method"),
        ("wake_host", {}, "bad_request"),
        ("wake_host", {"neighbour": "x" * 129}, "bad_request"),
        ("wake_host", {"neighbour": "aa:bb:cc:dd:ee:ff"}, "unknown_neighbour"),
        ("confirm_pin", {}, "bad_request"),
        ("confirm_pin", {"host": "wolf", "pin": 42, "origin": "o"}, "bad_request"),
        ("confirm_pin", {"host": "wolf", "pin": PIN, "origin": "o" * 129}, "bad_request"),
        (
            "confirm_pin",
            {"host": "wolf", "pin": PIN, "origin": "o", "timeout_s": 11},
            "bad_request",
        ),
        ("confirm_pin", {"host": "other", "pin": PIN, "origin": "o"}, "unknown_host"),
        ("confirm_pin", {"host": "wolf", "pin": "no", "origin": "o"}, "bad_pin"),
        (
            "confirm_pin",
            {"host": "wolf", "pin": PIN, "origin": "o", "timeout_s": 0.01},
            "no_pending_pairing",
        ),
    ],
)
async def test_requests_that_are_refused(
    tmp_path: Path, method: str, params: dict[str, Any], reason: str
) -> None:
    async with connected(tmp_path) as (tunnel, there):
        pending = there.wolf.pending(("any", "127.0.0.1"))
        if reason == "bad_pin":
            # Whatever the origin's address is: all of the loopback network is waiting.
            there.wolf.script("POST", "/pair/client", {"success": True})
            pending = there.wolf.pending(("any", await _address_of_origin(tunnel, there, "o")))
        there.wolf.script("GET", "/pair/pending", pending)
        with pytest.raises(RequestFailed) as caught:
            await tunnel.request(method, params)
        assert caught.value.reason == reason
        assert PIN not in str(caught.value)
        assert there.wolf.asked("POST", "/pair/client") == []


async def _address_of_origin(tunnel: AgentTunnel, there: Host, origin: str) -> str:
    there.seen.clear()
    async with await tunnel.open_stream("wolf", "http", origin=origin) as stream:
        await stream.send_all(b"x")
        await stream.receive_some()
    return next(seen for seen in there.seen if seen != "127.0.0.1")


async def test_an_agent_may_be_there_to_wake_its_neighbours_only() -> None:
    with trio.socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as card:
        await card.bind(("127.255.255.255", 0))
        neighbour = {
            "name": "pc",
            "mac": "02:00:5e:10:00:01",
            "broadcast": "127.255.255.255",
            "port": card.getsockname()[1],
        }
        async with edge() as it, trio.open_nursery() as nursery:
            config = AgentConfig.model_validate(
                {
                    "edge": {"url": it.url, "token": TOKEN},
                    "agent": {"id": "alpha", "region": "eu"},
                    "neighbours": [neighbour],
                }
            )
            with trio.fail_after(10):
                await nursery.start(run_agent, config)
                tunnel = await it.tunnel()
                assert tunnel.hello.hosts == ()
                assert await tunnel.request("wake_host", {"neighbour": "pc"}) == {}
                assert (await card.recv(200)).startswith(b"\xff" * 6)
            nursery.cancel_scope.cancel()


def test_a_pin_is_not_shown() -> None:
    assert PIN not in repr(_ConfirmPin("wolf", PIN, "pair-1"))


async def test_a_sunshine_without_its_api_has_no_pins_and_says_what_to_set(tmp_path: Path) -> None:
    async with connected(tmp_path, wolf_socket=None, kind="sunshine") as (tunnel, _):
        with pytest.raises(RequestFailed, match="api_username") as caught:
            await tunnel.request("confirm_pin", {"host": "wolf", "pin": PIN, "origin": "o"})
        assert caught.value.reason == "no_pin_api"


async def test_a_host_without_an_api_has_no_pins(tmp_path: Path) -> None:
    async with connected(tmp_path, wolf_socket=None) as (tunnel, _):
        with pytest.raises(RequestFailed, match="wolf_socket") as caught:
            await tunnel.request("confirm_pin", {"host": "wolf", "pin": PIN, "origin": "o"})
        assert caught.value.reason == "no_pin_api"


async def test_a_host_elsewhere_sees_this_machines_own_address(tmp_path: Path) -> None:
    async with connected(tmp_path, address="::1") as (tunnel, there):
        there.wolf.script("POST", "/pair/client", {"success": True})
        pending = there.wolf.pending(("theirs", "127.64.1.1"), ("ours", "::1"))
        there.wolf.script("GET", "/pair/pending", pending)
        await tunnel.request("confirm_pin", {"host": "wolf", "pin": PIN, "origin": "o"})
        (posted,) = there.wolf.asked("POST", "/pair/client")
        assert posted["pair_secret"] == "ours"


async def test_what_is_not_on_the_list_is_not_dialled(tmp_path: Path) -> None:
    async with connected(tmp_path) as (tunnel, there):
        there.seen.clear()
        with pytest.raises(DialRefused) as caught:
            await tunnel.open_stream("wolf", "http", origin="o", port=22)
        assert caught.value.reason == "port_not_allowed"
        with pytest.raises(DialRefused) as caught:
            await tunnel.open_flow("wolf", 53, origin="o", session="s", flow="video")
        assert caught.value.reason == "port_not_allowed"
        assert [seen for seen in there.seen if seen != "127.0.0.1"] == []


async def test_a_host_that_is_down_is_told_to_whoever_dials(tmp_path: Path) -> None:
    async with connected(tmp_path, http_port=1) as (tunnel, _):
        stream = await tunnel.open_stream("wolf", "http", origin="o")
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, DialRefused)
        assert caught.value.__cause__.reason == "host_unreachable"
        await trio.aclose_forcefully(stream)


async def test_the_edges_certificate_is_verified(tmp_path: Path) -> None:
    authority, impostor = trustme.CA(), trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(tls)
    for name, ca in (("authority", authority), ("impostor", impostor)):
        ca.cert_pem.write_to_path(str(tmp_path / name))
    token_file = tmp_path / "token"
    token_file.write_text(f"{TOKEN}\n")
    token_file.chmod(0o600)

    async with edge(tls) as it, host(tmp_path) as there:
        for name, welcome in (("impostor", False), ("authority", True)):
            config = agent_config(
                it.url,
                there.config(),
                ca_file=tmp_path / name,
                token=None,
                token_file=token_file,
            )
            async with trio.open_nursery() as nursery:
                with capture_logs() as logs:
                    nursery.start_soon(run_agent, config)
                    if welcome:
                        assert (await it.tunnel()).agent_id == "alpha"
                    else:
                        failed = partial(_logged, logs, "tunnel_not_connected")
                        await until(failed)
                        assert TOKEN not in str(logs)
                        with pytest.raises(trio.WouldBlock):
                            it.tunnels.receive_nowait()
                nursery.cancel_scope.cancel()


def _logged(logs: list[Any], event: str) -> bool:
    return any(entry["event"] == event for entry in logs)


@pytest.mark.parametrize("content", [None, "not a certificate"])
async def test_an_unusable_certificate_file_is_a_configuration_error(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "ca.pem"
    if content is not None:
        path.write_text(content)
    config = agent_config("wss://play.example.org", {"name": "wolf"}, ca_file=path)
    with pytest.raises(ConfigError, match=r"edge\.ca_file"):
        await run_agent(config)


async def test_an_unusable_token_file_is_a_configuration_error(tmp_path: Path) -> None:
    config = agent_config(
        "ws://localhost", {"name": "wolf"}, token=None, token_file=tmp_path / "absent"
    )
    with pytest.raises(ConfigError, match="absent"):
        await run_agent(config)


async def test_stopping_an_agent_leaves_nothing_behind(tmp_path: Path) -> None:
    async with edge() as it, host(tmp_path) as there:
        async with trio.open_nursery() as nursery:
            await nursery.start(run_agent, agent_config(it.url, there.config()))
            tunnel = await it.tunnel()
            stream = await tunnel.open_stream("wolf", "http", origin="o")
            await stream.send_all(b"x")
            await stream.receive_some()
            await tunnel.open_flow("wolf", there.udp_port, origin="o", session="s", flow="audio")
            nursery.cancel_scope.cancel()
        with trio.fail_after(5):
            await tunnel.closed.wait()
        await trio.aclose_forcefully(stream)


def test_the_address_a_host_elsewhere_sees() -> None:
    assert _own_address(HostConfig.model_validate({"name": "w", "address": "127.0.0.1"})) == (
        "127.0.0.1"
    )
    unroutable = HostConfig.model_validate({"name": "w", "address": "255.255.255.255"})
    with pytest.raises(RequestFailed, match="no route") as caught:
        _own_address(unroutable)
    assert caught.value.reason == "host_unreachable"


def test_an_agent_that_was_never_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", unknown)
    assert _software() == "moonhost"
    monkeypatch.setattr(importlib.metadata, "version", lambda _name: "1.2.3")
    assert _software() == "moonhost 1.2.3"
