"""What an agent tells of its hosts."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
from fake_sunshine import fake_sunshine
from fake_wolf import fake_wolf
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from agent.budget import fit, max_app_bytes, max_gpu_bytes
from agent.config import HostConfig, LimitsConfig
from agent.gpus import Gpu, max_gpus
from agent.load import Load
from agent.machine import MachineState
from agent.telemetry import Telemetry
from moonlight.applist import App, applist
from moonlight.serverinfo import ServerInfo
from revdial.messages import (
    AppOffer,
    GpuReport,
    Hello,
    decode_from_agent,
    encode,
    max_control_message_bytes,
)

DESKTOP = {"title": "Desktop", "id": 1}
STEAM = {"title": "Steam", "id": 2}


@asynccontextmanager
async def ports(count: int) -> AsyncIterator[list[int]]:
    """Ports of a host that answer."""
    async with AsyncExitStack() as stack:
        opened = []
        for _ in range(count):
            (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
            opened.append(await stack.enter_async_context(listener))
        yield [listener.socket.getsockname()[1] for listener in opened]


async def unread() -> MachineState:
    """A machine that says nothing of itself."""
    return MachineState()


def config(**settings: Any) -> HostConfig:
    return HostConfig.model_validate({"name": "wolf", **settings})


async def test_a_hello_offers_what_is_configured() -> None:
    host = config(max_sessions=3, http_port=1, https_port=2, rtsp_port=3, apps=[DESKTOP])
    async with Telemetry.open(
        [host, config(name="two", kind="sunshine")], LimitsConfig(), unread
    ) as it:
        await it.refresh_apps()
        first, second = it.offers()
        assert (first.name, first.kind, first.max_sessions) == ("wolf", "wolf", 3)
        assert (first.http_port, first.https_port, first.rtsp_port) == (1, 2, 3)
        assert first.apps == (AppOffer("Desktop", 1),)
        assert (second.kind, second.apps) == ("sunshine", ())
        assert it.api("wolf") is None


async def test_a_hello_tells_whether_a_host_can_tell_sessions_apart() -> None:
    near = config(identifies_sessions_by="address")
    hidden = config(name="two", source_addresses="never")
    async with Telemetry.open([near, hidden], LimitsConfig(), unread) as it:
        told = [(offer.own_addresses, offer.by_address) for offer in it.offers()]
        assert told == [(True, True), (False, False)]


async def test_a_heartbeat_tells_which_ports_answer() -> None:
    async with ports(3) as (http, https, rtsp):
        host = config(http_port=http, https_port=https, rtsp_port=rtsp)
        async with Telemetry.open([host], LimitsConfig(), unread) as telemetry:
            telemetry.offers()
            (report,) = (await telemetry.heartbeat()).hosts
            assert report.reachable
            assert report.ports == {"http": True, "https": True, "rtsp": True}
            assert (report.sessions, report.apps) == (None, None)
        broken = config(http_port=http, https_port=https, rtsp_port=1)
        async with Telemetry.open([broken], LimitsConfig(), unread) as telemetry:
            (report,) = (await telemetry.heartbeat()).hosts
            assert not report.reachable
            assert report.ports == {"http": True, "https": True, "rtsp": False}


async def test_a_port_that_swallows_connections_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: object
) -> None:
    async def never(*_args: object) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(trio, "open_tcp_stream", never)
    async with Telemetry.open([config()], LimitsConfig(probe_timeout_s=2), unread) as telemetry:
        started = trio.current_time()
        (report,) = (await telemetry.heartbeat()).hosts
        assert not any(report.ports.values())
        assert trio.current_time() - started == pytest.approx(2)


async def test_apps_and_sessions_come_from_the_hosts_api(tmp_path: Path) -> None:
    path = tmp_path / "wolf.sock"
    async with (
        fake_wolf(path) as wolf,
        Telemetry.open([config(wolf_socket=path)], LimitsConfig(), unread) as telemetry,
    ):
        wolf.script("GET", "/apps", {"apps": [DESKTOP]})
        wolf.script("GET", "/sessions", {"sessions": [{}, {}]})
        await telemetry.refresh_apps()
        assert telemetry.offers()[0].apps == (AppOffer("Desktop", 1),)
        (report,) = (await telemetry.heartbeat()).hosts
        assert (report.sessions, report.apps) == (2, None)
        wolf.script("GET", "/apps", {"apps": [DESKTOP, STEAM]})
        (report,) = (await telemetry.heartbeat()).hosts
        assert report.apps == (AppOffer("Desktop", 1), AppOffer("Steam", 2))
        (report,) = (await telemetry.heartbeat()).hosts
        assert report.apps is None
        # A new tunnel hears everything in its hello.
        assert telemetry.offers()[0].apps == (AppOffer("Desktop", 1), AppOffer("Steam", 2))


async def test_a_sunshine_tells_apps_and_whether_it_is_taken_and_no_more(tmp_path: Path) -> None:
    info = ServerInfo(hostname="pc", unique_id="u", current_game=7, busy=True)
    async with fake_sunshine() as sunshine:
        sunshine.script["/applist"] = [applist([App("Desktop", 7, True)])]
        sunshine.script["/serverinfo"] = [info.to_answer()]
        host = sunshine.config(tmp_path)
        async with Telemetry.open([host], LimitsConfig(), unread) as telemetry:
            await telemetry.refresh_apps()
            (offer,) = telemetry.offers()
            assert (offer.kind, offer.max_sessions) == ("sunshine", 1)
            assert offer.apps == (AppOffer("Desktop", 7, True),)
            (report,) = (await telemetry.heartbeat()).hosts
            assert report.sessions == 1
            assert report.ports["https"]


async def test_a_list_in_the_configuration_wins(tmp_path: Path) -> None:
    path = tmp_path / "wolf.sock"
    host = config(wolf_socket=path, apps=[STEAM])
    async with fake_wolf(path) as wolf, Telemetry.open([host], LimitsConfig(), unread) as telemetry:
        wolf.script("GET", "/apps", {"apps": [DESKTOP]})
        await telemetry.heartbeat()
        assert telemetry.offers()[0].apps == (AppOffer("Steam", 2),)
        assert wolf.asked("GET", "/apps") == []


async def test_a_failing_api_keeps_the_apps_and_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "wolf.sock"
    async with Telemetry.open([config(wolf_socket=path)], LimitsConfig(), unread) as telemetry:
        with capture_logs() as logs:
            async with fake_wolf(path) as wolf:
                wolf.script("GET", "/apps", {"apps": [DESKTOP]})
                wolf.script("GET", "/sessions", {"sessions": []})
                await telemetry.heartbeat()
            path.unlink()
            for _ in range(2):
                (report,) = (await telemetry.heartbeat()).hosts
                assert (report.sessions, report.apps) == (None, None)
            async with fake_wolf(path) as wolf:
                wolf.script("GET", "/apps", {"apps": [DESKTOP]})
                wolf.script("GET", "/sessions", {"sessions": []})
                (report,) = (await telemetry.heartbeat()).hosts
                assert report.sessions == 0
        assert telemetry.offers()[0].apps == (AppOffer("Desktop", 1),)
    events = [entry["event"] for entry in logs]
    assert events == ["host_api_failed", "host_api_answers_again"]


async def test_a_gpu_that_is_stated_is_told_as_it_is() -> None:
    gpu = {"name": "RX 7900", "vendor": "amd", "memory_total_bytes": 24 << 30}
    async with Telemetry.open(
        [config(gpu=gpu), config(name="b")], LimitsConfig(), unread
    ) as telemetry:
        heartbeat = await telemetry.heartbeat()
    first, second = heartbeat.hosts
    assert first.gpus == (GpuReport("RX 7900", "amd", None, 24 << 30),)
    assert second.gpus == ()


async def test_a_heartbeat_tells_how_the_machine_is() -> None:
    load = Load(12.5, 3, 4, 5, 6)
    gpu = Gpu(("0000:01:00.0",), "RTX", "nvidia", "nvidia", 1, 2)

    async def read_machine() -> MachineState:
        return MachineState(load, (gpu,))

    hosts = [config(), config(name="two", gpus=["01:00.0"])]
    async with Telemetry.open(hosts, LimitsConfig(), read_machine) as telemetry:
        heartbeat = await telemetry.heartbeat()
    assert [host.gpus for host in heartbeat.hosts] == [(GpuReport("RTX", "nvidia", 1, 2),)] * 2
    assert heartbeat.cpu_percent == 12.5
    assert (heartbeat.memory_used_bytes, heartbeat.memory_total_bytes) == (3, 4)
    assert heartbeat.network_receive_bits_per_s == 5
    assert heartbeat.network_send_bits_per_s == 6
    assert decode_from_agent(encode(heartbeat)) == heartbeat


async def test_more_apps_than_a_message_holds_are_left_out_with_a_warning() -> None:
    apps = [
        {"title": f"{number} " + "\N{VIDEO GAME}" * 120, "id": number} for number in range(1, 513)
    ]
    hosts = [config(name=f"{number:02}-{'n' * 60}", apps=apps) for number in range(64)]
    gpus = tuple(
        Gpu((f"0000:{number:02x}:00.0",), "n" * 64, "v" * 6, "", 1 << 40, 1 << 40)
        for number in range(max_gpus)
    )

    async def read_machine() -> MachineState:
        return MachineState(Load(99.9, 1 << 45, 1 << 45, 1 << 45, 1 << 45), gpus)

    with capture_logs() as logs:
        async with Telemetry.open(hosts, LimitsConfig(), read_machine) as telemetry:
            heartbeat = await telemetry.heartbeat()
            offers = telemetry.offers()
    assert {entry["event"] for entry in logs} == {"apps_left_out", "gpus_left_out"}
    assert all(report.apps and report.gpus for report in heartbeat.hosts)
    hello = Hello(agent_id="a" * 64, region="r" * 64, software="s" * 64, hosts=offers)
    assert all(offer.apps for offer in offers)
    assert decode_from_agent(encode(hello)) == hello
    assert decode_from_agent(encode(heartbeat)) == heartbeat


@given(
    st.lists(st.builds(AppOffer, st.text(max_size=40), st.integers(1, 2**31), st.booleans())),
    st.integers(0, 2_000),
)
def test_what_fits_is_the_longest_beginning_that_does(apps: list[AppOffer], limit: int) -> None:
    kept = fit(apps, limit)
    assert kept == tuple(apps[: len(kept)])
    assert sum(len(msgspec.json.encode(app)) + 1 for app in kept) <= limit
    if len(kept) < len(apps):
        one_more = apps[: len(kept) + 1]
        assert sum(len(msgspec.json.encode(app)) + 1 for app in one_more) > limit


def test_apps_leave_room_for_the_rest_of_a_hello() -> None:
    assert max_app_bytes + max_gpu_bytes < max_control_message_bytes
