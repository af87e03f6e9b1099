"""What an agent can be told while it runs: another token, certificate or neighbour."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import trio
import trustme
from structlog.testing import capture_logs

from agent.config import AgentConfig
from agent.reloading import reloadable
from agent.service import run_agent
from revdial.errors import RequestFailed
from revdial.listener import TunnelListener
from revdial.tunnel import AgentTunnel
from settings.reload_plan import leaves
from settings.reloading import Reloading
from tests.waiting import until

OLD, NEW = "hunter2-hunter2", "hunter3-hunter3"
PC = {"name": "pc", "mac": "02:00:5e:10:00:01"}

# What is not reloadable, and why.
NEEDS_RESTART = {
    "edge.url": "the dialer goes there for good",
    **{f"agent.{name}": "is in the hello" for name in ("id", "region", "latitude", "longitude")},
    "hosts": "are in the hello, and what watches them is open",
    **{
        f"limits.{name}": "is built in"
        for name in (
            *("max_streams", "max_flows", "connect_timeout_s", "stream_idle_timeout_s"),
            *("flow_grace_s", "host_api_timeout_s", "probe_timeout_s", "reading_timeout_s"),
        )
    },
}


def test_every_setting_is_classified() -> None:
    assert not reloadable & NEEDS_RESTART.keys()
    settings = set(leaves(AgentConfig))
    assert settings == reloadable | NEEDS_RESTART.keys(), "a new setting: can it change?"


@asynccontextmanager
async def edge(
    tokens: set[str], tls: ssl.SSLContext | None = None
) -> AsyncIterator[tuple[str, list[AgentTunnel]]]:
    """Listen for an agent whose token is one of `tokens`; give the URL, and the tunnels so far."""
    tunnels: list[AgentTunnel] = []

    async def authenticate(token: str) -> str | None:
        return "alpha" if token in tokens else None

    async def on_agent(tunnel: AgentTunnel) -> None:
        tunnels.append(tunnel)
        await tunnel.closed.wait()

    listener = TunnelListener(authenticate=authenticate, on_agent=on_agent)
    sockets = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with trio.open_nursery() as nursery:
        await nursery.start(listener.serve, sockets, tls)
        port = sockets[0].socket.getsockname()[1]
        yield f"ws://127.0.0.1:{port}" if tls is None else f"wss://localhost:{port}", tunnels
        nursery.cancel_scope.cancel()


def config(
    url: str, token_file: Path, neighbour: dict[str, str] = PC, **edge_settings: Any
) -> AgentConfig:
    return AgentConfig.model_validate(
        {
            "edge": {"url": url, "token_file": token_file, **edge_settings},
            "agent": {"id": "alpha", "region": "eu"},
            "neighbours": [neighbour],
        }
    )


def write_token(path: Path, token: str) -> Path:
    path.write_text(f"{token}\n")
    path.chmod(0o600)
    return path


async def test_a_rotated_token_is_shown_at_the_next_dial(tmp_path: Path) -> None:
    token_file = write_token(tmp_path / "token", OLD)
    tokens = {OLD}
    reload = trio.Event()
    reloaded = trio.Event()
    async with edge(tokens) as (url, tunnels), trio.open_nursery() as nursery:
        settings = config(url, token_file)

        async def follow(reloading: Reloading[AgentConfig]) -> None:
            await reload.wait()
            nas = {"name": "nas", "mac": "02:00:5e:10:00:02"}
            await reloading.reload(lambda: config(url, token_file, nas))
            reloaded.set()

        async def run(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
            await run_agent(settings, follow=follow, task_status=task_status)

        with trio.fail_after(30):
            await nursery.start(run)
            write_token(token_file, NEW)
            tokens.add(NEW)
            reload.set()
            await reloaded.wait()
            # It stays connected as it is; the old token is of no use any more.
            assert not tunnels[0].closed.is_set()
            with pytest.raises(RequestFailed) as refused:
                await tunnels[0].request("wake_host", {"neighbour": "pc"}, 5)
            assert refused.value.reason == "unknown_neighbour"
            tokens.discard(OLD)
            tunnels[0].close(1001, "going_away")
            await until(lambda: len(tunnels) == 2)
        nursery.cancel_scope.cancel()


async def test_a_token_file_that_others_can_read_is_refused_and_the_agent_goes_on(
    tmp_path: Path,
) -> None:
    token_file = write_token(tmp_path / "token", OLD)
    async with edge({OLD}) as (url, _), trio.open_nursery() as nursery:
        settings = config(url, token_file)

        async def follow(reloading: Reloading[AgentConfig]) -> None:
            for content, mode in ((NEW, 0o644), ("two words", 0o600)):
                write_token(token_file, content)
                token_file.chmod(mode)
                await reloading.reload(lambda: settings)
            nursery.cancel_scope.cancel()

        with capture_logs() as events, trio.fail_after(30):
            await run_agent(settings, follow=follow)
        why = [each["why"] for each in events if each["event"] == "configuration_refused"]
        assert "chmod 600" in why[0]
        assert "one word" in why[1]
        assert NEW not in str(events)


async def test_another_certificate_of_the_edge_is_believed_at_the_next_dial(
    tmp_path: Path,
) -> None:
    former, renewed = trustme.CA(), trustme.CA()
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    renewed.issue_cert("localhost").configure_cert(tls)
    ca_file = tmp_path / "ca.pem"
    former.cert_pem.write_to_path(str(ca_file))
    token_file = write_token(tmp_path / "token", OLD)
    async with edge({OLD}, tls) as (url, tunnels), trio.open_nursery() as nursery:
        settings = config(url, token_file, ca_file=ca_file)

        async def follow(reloading: Reloading[AgentConfig]) -> None:
            await until(partial(logged, events, "tunnel_not_connected"))
            ca_file.write_text("rubbish")
            await reloading.reload(lambda: settings)
            renewed.cert_pem.write_to_path(str(ca_file))
            await reloading.reload(lambda: settings)

        with capture_logs() as events, trio.fail_after(30):
            nursery.start_soon(partial(run_agent, settings, follow=follow))
            await until(lambda: len(tunnels) == 1)
            nursery.cancel_scope.cancel()
    (refused,) = [each for each in events if each["event"] == "configuration_refused"]
    assert "edge.ca_file" in refused["why"]


def logged(events: list[Any], event: str) -> bool:
    return any(each["event"] == event for each in events)
