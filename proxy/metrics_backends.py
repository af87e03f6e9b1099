"""Metrics of backends, and of the agents that they are reached through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.metrics_core import Metric

from backends.model import Backend, Health
from proxy.backend_figures import ConnectionFailure
from proxy.fleet import Fleet, counts
from proxy.metric_families import Samples, counter, gauge, info
from proxy.tallies import other
from revdial.messages import GpuReport, Heartbeat
from revdial.observer import AGENT_LOSSES

_bits = 8
_percent = 100


def of_backends(fleet: Fleet) -> Iterator[Metric]:
    """Give the families of backends and agents; those away for a short while included."""
    backends = fleet.backends()
    yield from _of_hosts(fleet, backends)
    yield from _of_gpus(fleet, backends)
    yield from _of_agents(fleet, sorted({backend.agent_id for backend in backends}))


def _of_hosts(fleet: Fleet, backends: Iterable[Backend]) -> Iterator[Metric]:
    yield info(
        "backend",
        "Always 1; the labels tell what a backend is.",
        ("backend", "agent", "region", "kind"),
        [(one.id, one.agent_id, one.region, one.kind) for one in backends],
    )
    yield _each("backend_sessions", "Sessions and reservations of a backend.", backends, "sessions")
    yield _each(
        "backend_session_limit", "Sessions that a backend may have.", backends, "max_sessions"
    )
    yield gauge(
        "backend_health",
        "1 for what a backend's health is, 0 for what it is not.",
        ("backend", "health"),
        [
            ((one.id, str(health)), float(one.health is health))
            for one in backends
            for health in Health
        ],
    )
    yield _each(
        "backend_draining", "1 for a backend that takes no new sessions.", backends, "draining"
    )
    yield counter(
        "backend_connection_errors",
        "Connections to a backend that failed, by kind.",
        ("backend", "kind"),
        [
            ((one.id, str(kind)), fleet.figures.failures(one.id)[kind])
            for one in backends
            for kind in ConnectionFailure
        ],
    )


def _each(name: str, text: str, backends: Iterable[Backend], field: str) -> Metric:
    return gauge(
        name, text, ("backend",), [((one.id,), float(getattr(one, field))) for one in backends]
    )


def _of_gpus(fleet: Fleet, backends: Iterable[Backend]) -> Iterator[Metric]:
    known = [
        (backend.id, str(number), gpu)
        for backend in backends
        if backend.health is Health.HEALTHY
        for number, gpu in enumerate(_gpus(fleet.last_heartbeat(backend.agent_id), backend.host))
        if counts(gpu)
    ]
    yield gauge(
        "backend_gpu_memory_used_bytes",
        "Memory in use of each GPU of a backend that has memory of its own.",
        ("backend", "gpu"),
        [
            ((backend, number), gpu.memory_used_bytes)
            for backend, number, gpu in known
            if gpu.memory_used_bytes is not None
        ],
    )
    yield gauge(
        "backend_gpu_memory_bytes",
        "Memory of each GPU of a backend that has memory of its own.",
        ("backend", "gpu"),
        [((backend, number), gpu.memory_total_bytes or 0) for backend, number, gpu in known],
    )
    yield gauge(
        "backend_gpu_memory_used_ratio",
        "Share of each GPU's memory that is in use, 0-1.",
        ("backend", "gpu"),
        [
            ((backend, number), gpu.memory_used_bytes / gpu.memory_total_bytes)
            for backend, number, gpu in known
            if gpu.memory_used_bytes is not None and gpu.memory_total_bytes
        ],
    )
    yield gauge(
        "backend_gpu_memory_reckoned_ratio",
        "What selection goes by: the fullest GPU, with what new sessions may still need, 0-1.",
        ("backend",),
        [((one.id,), one.gpu_memory_share) for one in backends if one.gpu_memory_share is not None],
    )


def _gpus(heartbeat: Heartbeat | None, host: str) -> tuple[GpuReport, ...]:
    reports = () if heartbeat is None else heartbeat.hosts
    return next((report.gpus for report in reports if report.name == host), ())


def _of_agents(fleet: Fleet, agents: list[str]) -> Iterator[Metric]:
    heartbeats = [(agent, fleet.last_heartbeat(agent)) for agent in agents]
    told = [(agent, heartbeat) for agent, heartbeat in heartbeats if heartbeat is not None]
    yield gauge(
        "agent_connected",
        "1 for an agent whose tunnel is up, 0 for one that is away.",
        ("agent",),
        [((agent,), float(fleet.has_agent(agent))) for agent in agents],
    )
    yield from _of_tunnels(fleet, agents)
    yield gauge(
        "agent_cpu_ratio",
        "How busy the CPUs of an agent's machine are, 0-1.",
        ("agent",),
        [
            ((agent,), one.cpu_percent / _percent)
            for agent, one in told
            if one.cpu_percent is not None
        ],
    )
    for name, text, field, unit in (
        ("memory_used_bytes", "Memory in use of its machine.", "memory_used_bytes", 1),
        ("memory_bytes", "Memory of its machine.", "memory_total_bytes", 1),
        (
            "network_receive_bytes_per_second",
            "What its machine receives.",
            "network_receive_bits_per_s",
            _bits,
        ),
        (
            "network_send_bytes_per_second",
            "What its machine sends.",
            "network_send_bits_per_s",
            _bits,
        ),
    ):
        yield gauge(
            f"agent_{name}",
            f"As an agent tells in its heartbeats: {text}",
            ("agent",),
            [
                ((agent,), value / unit)
                for agent, one in told
                if (value := getattr(one, field)) is not None
            ],
        )
    yield counter(
        "agent_losses",
        "What an agent has dropped since it started, by reason, as its heartbeats tell.",
        ("agent", "reason"),
        [sample for agent, one in told for sample in _losses(agent, one)],
    )


def _of_tunnels(fleet: Fleet, agents: list[str]) -> Iterator[Metric]:
    tunnels = [(agent, fleet.tunnel_of(agent)) for agent in agents]
    up = [(agent, tunnel) for agent, tunnel in tunnels if tunnel is not None]
    yield gauge(
        "agent_tunnel_rtt_seconds",
        "Round trip of the last ping through an agent's tunnel.",
        ("agent",),
        [((agent,), tunnel.rtt_s) for agent, tunnel in up if tunnel.rtt_s is not None],
    )
    yield gauge(
        "agent_tunnel_connections",
        "Data connections of an agent, open or being opened.",
        ("agent",),
        [((agent,), tunnel.data_connections) for agent, tunnel in up],
    )
    yield counter(
        "agent_reconnects",
        "Tunnels of an agent after its first one.",
        ("agent",),
        [((agent,), fleet.figures.agent(agent).reconnects) for agent in agents],
    )
    dials = []
    for agent, tunnel in tunnels:
        before = fleet.figures.agent(agent)
        warm, cold = (0, 0) if tunnel is None else (tunnel.warm_dials, tunnel.cold_dials)
        dials.append(((agent, "warm"), before.warm_dials + warm))
        dials.append(((agent, "cold"), before.cold_dials + cold))
    yield counter(
        "agent_dials",
        "Data connections used, by whether they were ready (warm) or had to be opened (cold).",
        ("agent", "kind"),
        dials,
    )


def _losses(agent: str, heartbeat: Heartbeat) -> Samples:
    known = {reason: heartbeat.losses.get(reason, 0) for reason in AGENT_LOSSES}
    unknown = sum(heartbeat.losses.values()) - sum(known.values())
    for reason, count in (known | {other: unknown}).items():
        if count:
            yield (agent, reason), count
