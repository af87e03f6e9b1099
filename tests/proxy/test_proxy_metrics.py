from __future__ import annotations

import ast
import importlib
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from enum import StrEnum
from pathlib import Path
from typing import Any, cast

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from proxy_fakes import BACKEND, FakeStore, FakeTunnel, new_fleet, serving, session

from moonlight.flows import Flow
from proxy import losses, metrics_sessions
from proxy.admin.port import admin_doors
from proxy.backend_figures import ConnectionFailure
from proxy.client_flow import ClientFlow
from proxy.config import ProxyConfig
from proxy.doors import Doors
from proxy.edge_figures import EdgeFigures
from proxy.fleet import Fleet
from proxy.keeping_apart import KeepingApart
from proxy.losses import FLOW_REASONS
from proxy.media import Media
from proxy.metrics import EdgeCollector, exposition, registry
from proxy.sessions import PortRules, SessionId, SessionTable
from proxy.translation import PingTranslation
from proxy.waker import Waker
from revdial.messages import FlowReport, GpuReport, Heartbeat, HostReport
from revdial.observer import AGENT_LOSSES, Counters
from tests.waiting import until

ROOT = Path(__file__).parents[2]

# Why something is lost or refused, and where it is counted: family, and the label that tells it.
COUNTED = {
    "proxy.flow_table.NoFlow": ("moonhost_datagrams_dropped", "reason"),
    "proxy.roaming.Refusal": ("moonhost_datagrams_dropped", "reason"),
    "proxy.following.Stray": ("moonhost_datagrams_dropped", "reason"),
    "proxy.translation.UplinkDrop": ("moonhost_datagrams_dropped", "reason"),
    "proxy.losses.PortDrop": ("moonhost_datagrams_dropped", "reason"),
    "proxy.losses.FlowDrop": ("moonhost_datagrams_dropped", "reason"),
    "proxy.losses.DoorRefusal": ("moonhost_refused_input", "reason"),
    "proxy.matching.NoMatch": ("moonhost_refused_input", "reason"),
    "proxy.keeping_apart.KeptApart": ("moonhost_kept_apart", "reason"),
    "proxy.sealed_rtsp.SealRefusal": ("moonhost_refused_input", "reason"),
    "revdial.proxy_protocol.HeaderFault": ("moonhost_refused_input", "reason"),
    "revdial.observer.Refusal": ("moonhost_tunnel_refusals", "reason"),
    "revdial.observer.Loss": ("moonhost_tunnel_losses", "reason"),
    "backends.selection.Refusal": ("moonhost_launches_without_backend", "reason"),
    "backends.selection.Reason": ("moonhost_decisions", "reason"),
    "proxy.fleet.LaunchFailure": ("moonhost_failovers", "reason"),
    "proxy.client_flow.FlowEnd": ("moonhost_flows_ended", "reason"),
    "proxy.rtsp.RtspOutcome": ("moonhost_rtsp_messages", "outcome"),
    "proxy.wake_plan.WakeOutcome": ("moonhost_wakes", "outcome"),
    "proxy.outcomes.PairingEnd": ("moonhost_pairings", "outcome"),
    "moonlight.pairing.PairingOutcome": ("moonhost_pairings", "outcome"),
    "proxy.backend_figures.ConnectionFailure": ("moonhost_backend_connection_errors", "kind"),
    "proxy.sessions.SessionState": ("moonhost_sessions", "state"),
    "backends.model.Health": ("moonhost_backend_health", "health"),
    "backends.model.State": ("moonhost_backend_transitions", "reason"),
    "settings.reloading.ReloadOutcome": ("moonhost_configuration_reloads", "outcome"),
    "proxy.admin.denials.Denial": ("moonhost_refused_input", "reason"),
    "proxy.admin.token_check.LoginOutcome": ("moonhost_admin_logins", "outcome"),
    "moonlight.flows.Flow": ("moonhost_media_sent_bytes", "flow"),
}
# Counted where they happen, which is what other tests here show.
COUNTED_AS_IT_HAPPENS = {
    "revdial.backlog.Drop",  # of sessions, and as Loss
    "revdial.observer.AgentLoss",  # of agents
    "proxy.outcomes.Outcome",  # with its reason
}
# What tells of no loss: how things are, or how they were decided.
NO_LOSSES = {
    "proxy.sessions.VideoEncryptor",
    "backends.geography.LocatedBy",
    "backends.telling_apart.Telling",
    "backends.policies.PolicyName",
    "backends.candidates.Exclusion",  # of one backend: what is lost in the end is a Refusal
    "revdial.framing.FlowKind",
    "proxy.events.EventKind",
    "proxy.admin.scopes.Scope",
}


def enums() -> dict[str, type[StrEnum]]:
    """Every enumeration of words in what an edge is made of."""
    found = {}
    for package in ("proxy", "revdial", "backends", "moonlight", "settings"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.parse(path.read_text()).body:
                bases = [ast.unparse(base) for base in getattr(node, "bases", ())]
                if isinstance(node, ast.ClassDef) and any("StrEnum" in base for base in bases):
                    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                    found[f"{name}.{node.name}"] = getattr(importlib.import_module(name), node.name)
    return found


class Scraped:
    """An edge with nothing but its counters, and what Prometheus reads of it."""

    def __init__(self, fleet: Fleet, nursery: trio.Nursery, **limits: int) -> None:
        self.fleet = fleet
        self.sessions = SessionTable(PortRules(range(48010, 48011), range(0)))
        self.media = Media(nursery, on_end=lambda *_: None)
        self.doors = Doors(max_connections=1, max_connections_per_address=1)
        self.admin_doors = admin_doors()
        self.rtsp_refused: Counter[str] = Counter()
        self.tunnels = Counters()
        self.figures = EdgeFigures()
        self.registry = registry(
            EdgeCollector(
                sessions=self.sessions,
                fleet=fleet,
                media=self.media,
                doors=self.doors,
                admin_doors=self.admin_doors,
                apart=KeepingApart(fleet, self.sessions),
                rtsp_refused=self.rtsp_refused,
                tunnels=self.tunnels,
                waker=Waker(ProxyConfig(hostname="h"), b"", fleet, ()),
                figures=self.figures,
                **limits,
            )
        )

    async def samples(self, family: str) -> dict[tuple[str, ...], float]:
        """The samples of a family by the values of their labels, which are sorted by name."""
        return {
            tuple(sample.labels.values()): sample.value
            for found in await self.families()
            if found.name == family
            for sample in found.samples
        }

    async def families(self) -> list[Any]:
        return list(text_string_to_metric_families((await exposition(self.registry)).decode()))

    def add_flows(self, name: str) -> list[ClientFlow]:
        """Let a session have its three flows, which nobody answers."""

        async def never() -> Any:
            await trio.sleep_forever()

        flows = [
            ClientFlow(
                session=SessionId(name),
                kind=kind,
                secret=f"{name}/{kind}",
                client_address="192.0.2.1",
                translation=PingTranslation("", None),
                open_channel=cast("Callable[[], Awaitable[Any]]", never),
                silence_timeout_s=1e9,
                tunnel_grace_s=1e9,
            )
            for kind in Flow
        ]
        self.sessions.add(session(name))
        for flow in flows:
            self.media.add(flow)
        return flows


@pytest.fixture
async def tunnel(nursery: trio.Nursery) -> FakeTunnel:
    return FakeTunnel(nursery, warm_dials=3, cold_dials=1, data_connections=5)


async def beat(fleet: Fleet, tunnel: FakeTunnel, heartbeat: Heartbeat) -> None:
    await tunnel.heartbeats_in.send(heartbeat)
    await until(lambda: fleet.last_heartbeat(tunnel.agent_id) is heartbeat)


def test_every_enumeration_is_known_to_be_a_counters_or_none() -> None:
    assert enums().keys() == COUNTED.keys() | COUNTED_AS_IT_HAPPENS | NO_LOSSES


async def test_every_reason_has_its_counter_before_it_happens(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    async with serving(fleet, tunnel):
        scraped = {
            (found.name, label, value)
            for found in await Scraped(fleet, nursery).families()
            for sample in found.samples
            for label, value in sample.labels.items()
        }
    known = enums()
    missing = [
        f"{name}.{reason.name}"
        for name, (family, label) in COUNTED.items()
        for reason in known[name]
        if (family, label, str(reason)) not in scraped
    ]
    assert missing == []
    assert {("moonhost_datagrams_dropped", "reason", why) for why in FLOW_REASONS} <= scraped


@pytest.mark.parametrize("path", sorted((ROOT / "proxy").glob("*.py")), ids=lambda path: path.name)
def test_no_datagram_is_dropped_under_a_reason_that_no_enumeration_has(path: Path) -> None:
    written_out = [
        ast.unparse(node)
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Subscript)
        and ast.unparse(node.value).split(".")[-1] in {"dropped", "refused"}
        and isinstance(node.slice, ast.Constant | ast.JoinedStr)
    ]
    assert written_out == []


async def test_whatever_an_agent_loses_is_its_own_and_unknown_reasons_are_one(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    async with serving(fleet, tunnel):
        told = dict.fromkeys(AGENT_LOSSES, 2) | {"made": 3, "up": 4}
        await beat(fleet, tunnel, Heartbeat(losses=told))
        lost = await Scraped(fleet, nursery).samples("moonhost_agent_losses")
    assert lost == {("agent-1", why): 2.0 for why in AGENT_LOSSES} | {("agent-1", "other"): 7.0}


async def test_a_backend_and_its_agent_have_their_figures(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    scraped = Scraped(fleet, nursery)
    async with serving(fleet, tunnel):
        gpus = (
            GpuReport("borrows", "", 1 << 28, 1 << 29),
            GpuReport("own", "", 6 << 30, 8 << 30),
            GpuReport("silent", "", None, 8 << 30),
        )
        await beat(
            fleet,
            tunnel,
            Heartbeat(
                hosts=(HostReport("wolf", True, sessions=1, gpus=gpus),),
                cpu_percent=25.0,
                network_send_bits_per_s=8_000,
            ),
        )
        fleet.figures.failed(BACKEND, ConnectionFailure.TIMEOUT)
        for family, expected in {
            "moonhost_backend_session_limit": {(BACKEND,): 2},
            "moonhost_backend_gpu_memory_used_ratio": {(BACKEND, "1"): 0.75},
            "moonhost_backend_gpu_memory_bytes": {(BACKEND, "1"): 8 << 30, (BACKEND, "2"): 8 << 30},
            "moonhost_agent_connected": {("agent-1",): 1},
            "moonhost_agent_cpu_ratio": {("agent-1",): 0.25},
            "moonhost_agent_network_send_bytes_per_second": {("agent-1",): 1000},
            "moonhost_agent_network_receive_bytes_per_second": {},
            "moonhost_agent_tunnel_rtt_seconds": {("agent-1",): 0.01},
            "moonhost_agent_tunnel_connections": {("agent-1",): 5},
            "moonhost_agent_reconnects": {("agent-1",): 0},
            "moonhost_agent_dials": {("agent-1", "warm"): 3, ("agent-1", "cold"): 1},
        }.items():
            assert await scraped.samples(family) == expected
        errors = await scraped.samples("moonhost_backend_connection_errors")
        assert errors[BACKEND, "timeout"] == 1
    async with serving(fleet, FakeTunnel(nursery, warm_dials=10)):
        assert await scraped.samples("moonhost_agent_reconnects") == {("agent-1",): 1}
        dials = await scraped.samples("moonhost_agent_dials")
        assert dials["agent-1", "warm"] == 13


async def test_an_agent_that_is_away_is_told_as_that(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    scraped = Scraped(fleet, nursery)
    async with serving(fleet, tunnel):
        pass
    assert await scraped.samples("moonhost_agent_connected") == {("agent-1",): 0}
    health = await scraped.samples("moonhost_backend_health")
    assert [labels[1] for labels, value in health.items() if value] == ["unhealthy"]


async def test_a_session_has_its_figures_and_those_of_its_own_agent(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    scraped = Scraped(fleet, nursery)
    video, _, control = scraped.add_flows("s1")
    scraped.add_flows("elsewhere")
    video.bytes_to_client, video.gaps.missing, video.gaps.late = 1000, 3, 2
    video.dropped["late_stale"] += 5
    assert control.watch is not None
    control.watch.client.rtt_s, control.watch.host.retransmissions = 0.03, 2
    async with serving(fleet, tunnel):
        report = FlowReport("s1", "video", {"stale": 4, "invented": 1}, 2, 40)
        of_audio = FlowReport("s1", "audio", {"parity": 6})
        await beat(fleet, tunnel, Heartbeat(flows=(report, of_audio)))
        of_s1 = (BACKEND, "video", "s1")
        assert (await scraped.samples("moonhost_session_sent_bytes"))[of_s1] == 1000
        assert (await scraped.samples("moonhost_session_rtp_gaps"))[of_s1] == 5
        assert (await scraped.samples("moonhost_session_rtp_late"))[of_s1] == 2
        dropped = await scraped.samples("moonhost_session_dropped_datagrams")
        assert dropped == {(BACKEND, "video", "late_stale", "s1"): 5}
        dropped = await scraped.samples("moonhost_session_agent_dropped_datagrams")
        assert dropped == {
            (BACKEND, "video", "stale", "s1"): 4,
            (BACKEND, "video", "other", "s1"): 1,
            (BACKEND, "audio", "parity", "s1"): 6,
        }
        assert (await scraped.samples("moonhost_session_agent_dropped_frames"))[of_s1] == 2
        assert (await scraped.samples("moonhost_session_backlog_age_seconds"))[of_s1] == 0.04
        assert await scraped.samples("moonhost_session_rtt_seconds") == {
            (BACKEND, "s1", "client"): 0.03
        }
        resent = await scraped.samples("moonhost_session_retransmissions")
        assert resent[BACKEND, "s1", "host"] == 2
        told = await scraped.samples("moonhost_session_info")
        assert ("unknown", BACKEND, "unknown", "1920x1080x60", "s1") in told


@pytest.mark.parametrize(
    ("channels", "layout"), [(2, "stereo"), (6, "5.1"), (8, "7.1"), (3, "3 channels")]
)
async def test_a_sessions_codec_and_audio_are_told(
    nursery: trio.Nursery, channels: int, layout: str
) -> None:
    scraped = Scraped(new_fleet(FakeStore()), nursery)
    scraped.add_flows("s1")
    (played,) = scraped.sessions
    played.codec, played.audio_channels = "HEVC", channels
    assert await scraped.samples("moonhost_session_info") == {
        (layout, BACKEND, "HEVC", "1920x1080x60", "s1"): 1
    }


async def test_no_other_agent_has_a_say_in_a_session(nursery: trio.Nursery) -> None:
    fleet = new_fleet(FakeStore())
    scraped = Scraped(fleet, nursery)
    scraped.add_flows("s1")
    stranger = FakeTunnel(nursery, agent_id="stranger")
    async with serving(fleet, stranger):
        report = FlowReport("s1", "video", {"stale": 4}, 2, 40)
        await beat(fleet, stranger, Heartbeat(flows=(report,)))
        assert await scraped.samples("moonhost_session_agent_dropped_datagrams") == {}


def series_of_sessions(families: Iterable[Any]) -> int:
    return sum("session" in sample.labels for found in families for sample in found.samples)


async def test_a_thousand_sessions_have_no_more_series_than_the_bound(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    shown = 20
    scraped = Scraped(fleet, nursery, max_sessions=shown)
    reports = []
    for number in range(1000):
        flows = scraped.add_flows(f"s{number}")
        for flow in flows:
            flow.dropped.update(FLOW_REASONS)
            report = FlowReport(f"s{number}", flow.kind, {"stale": 1, "parity": 1, "x": 1})
            reports.append(report)
            if flow.watch is not None:
                flow.watch.client.rtt_s = flow.watch.host.rtt_s = 0.1
    async with serving(fleet, tunnel):
        await beat(fleet, tunnel, Heartbeat(flows=tuple(reports[:512])))
        families = await scraped.families()
    series = series_of_sessions(families)
    assert 0 < series <= shown * metrics_sessions.max_series_per_session
    assert (await scraped.samples("moonhost_sessions_without_metrics"))[()] == 1000 - shown


async def test_everything_else_has_as_many_series_whatever_clients_and_agents_send(
    nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    fleet = new_fleet(FakeStore())
    scraped = Scraped(fleet, nursery)
    before = len([sample for found in await scraped.families() for sample in found.samples])
    for number in range(1000):
        scraped.figures.play.counts.add("launch", "failed", f"made up {number}")
        scraped.figures.rtsp_malformed[f"made up {number}"] += 1
        scraped.tunnels.downs[f"made up {number}"] += 1
    after = len([sample for found in await scraped.families() for sample in found.samples])
    assert after - before < 200


def test_reasons_of_a_flow_and_of_a_port_are_told_apart_where_they_are_counted() -> None:
    assert set(losses.PORT_REASONS) & set(losses.FLOW_REASONS) == {"not_a_ping"}


async def test_ready_is_what_readyz_says(nursery: trio.Nursery) -> None:
    scraped = Scraped(new_fleet(FakeStore()), nursery)
    assert await scraped.samples("moonhost_ready") == {(): 1.0}
    scraped.figures.why_not_ready = lambda: "store down"
    assert await scraped.samples("moonhost_ready") == {(): 0.0}


async def test_lines_that_the_log_had_no_room_for_are_counted_by_event() -> None:
    fleet = new_fleet(FakeStore())
    async with trio.open_nursery() as nursery:
        edge = Scraped(fleet, nursery)
        edge.figures.log_lines_suppressed["rtsp_refused"] = 3
        assert await edge.samples("moonhost_log_lines_suppressed") == {("rtsp_refused",): 3.0}
