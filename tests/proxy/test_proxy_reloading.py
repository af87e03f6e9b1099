"""What an edge can be told while it runs, and that each part then goes by it."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import fields
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import httpx
import pytest
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePublicKey
from structlog.testing import capture_logs

from backends.geography import Place
from backends.policies import PolicyName, policies
from proxy import certificates
from proxy.config import ProxyConfig
from proxy.edge import RunningEdge, run_edge
from proxy.reloading import ReloadableParts, reloadable
from settings.reload_plan import leaves

# What is not reloadable, and why.
NEEDS_RESTART = {
    "hostname": "the certificate that the edge made names it",
    "state_dir": "files in it are open",
    **{
        f"listen.{name}": "is open"
        for name in (
            *("addresses", "http_port", "https_port", "rtsp_ports", "video_port", "control_port"),
            *("audio_port", "own_udp_ports", "proxy_protocol_from"),
        )
    },
    **{
        f"agents.{name}": "is open, or is what connected agents were let in by"
        for name in (
            *("addresses", "port", "proxy_protocol_from", "max_agents"),
            *("max_data_connections_per_agent", "spare_data_connections"),
        )
    },
    **{
        f"admin.{name}": "is open, or in use"
        for name in (
            *("address", "port", "certificate", "private_key", "ca_file", "token_file"),
            "key_lifetime_days",
        )
    },
    **{
        f"store.{name}": "is open"
        for name in (
            *("kind", "redis_url", "redis_password", "redis_password_file", "redis_ca_file"),
            "redis_prefix",
        )
    },
    "geography.reload_interval_s": "nobody needs it",
    **{
        f"wake.{name}": "its ports and the webhook are open"
        for name in ("hosts", "on_launch", "min_interval_s", "ports", "webhook")
    },
}


def test_every_setting_is_classified() -> None:
    settings = set(leaves(ProxyConfig))
    assert not reloadable & NEEDS_RESTART.keys()
    assert settings == reloadable | NEEDS_RESTART.keys(), "a new setting: can it change?"


def certificate_files(
    folder: Path,
    authority: trustme.CA,
    kind: trustme.KeyType,
    until: datetime | None = None,
) -> dict[str, Any]:
    made = authority.issue_cert("localhost", key_type=kind, not_after=until)
    (folder / "chain.pem").write_bytes(b"".join(pem.bytes() for pem in made.cert_chain_pems))
    (folder / "key.pem").write_bytes(made.private_key_pem.bytes())
    return {"certificate": folder / "chain.pem", "private_key": folder / "key.pem"}


def settings(
    folder: Path, ports: range, agents: dict[str, Any] | None = None, **sections: Any
) -> ProxyConfig:
    return ProxyConfig.model_validate(
        {
            "hostname": "127.0.0.1",
            "state_dir": folder / "state",
            "listen": {
                "addresses": ["127.0.0.1"],
                "http_port": ports[0],
                "https_port": ports[1],
                "rtsp_ports": str(ports[8]),
                "video_port": ports[4],
                "control_port": ports[5],
                "audio_port": ports[6],
                "own_udp_ports": str(ports[7]),
            },
            "agents": {"addresses": ["127.0.0.1"], "port": ports[2], **(agents or {})},
            "admin": {"port": ports[3]},
            **sections,
        }
    )


@asynccontextmanager
async def running(config: ProxyConfig) -> AsyncIterator[RunningEdge]:
    with trio.fail_after(30):
        async with trio.open_nursery() as nursery:
            edge = await nursery.start(run_edge, config)
            yield edge
            edge.stop()


async def shown(config: ProxyConfig, authority: trustme.CA, name: str | None) -> x509.Certificate:
    """Shake hands with the agents' port, naming a server or none; give what it shows."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    context.check_hostname = name is not None
    tcp = await trio.open_tcp_stream("127.0.0.1", config.agents.port)
    async with trio.SSLStream(tcp, context, server_hostname=name, https_compatible=True) as stream:
        await stream.do_handshake()
        return x509.load_der_x509_certificate(stream.getpeercert(binary_form=True))


@pytest.mark.parametrize("name", ["localhost", None])
async def test_a_renewed_certificate_is_shown_though_its_path_is_the_same(
    tmp_path: Path, name: str | None, own_ports: range
) -> None:
    authority = trustme.CA()
    # A key of another kind too, beside which the old certificate would stay in one context.
    files = certificate_files(tmp_path, authority, trustme.KeyType.ECDSA)
    config = settings(tmp_path, own_ports, files)
    async with running(config) as edge:
        first = await shown(config, authority, name)
        until = datetime.now(UTC).replace(microsecond=0) + timedelta(days=90)
        certificate_files(tmp_path, authority, trustme.KeyType.RSA, until)
        assert await shown(config, authority, name) == first

        await edge.reloading.reload(lambda: config)

        second = await shown(config, authority, name)
        assert isinstance(first.public_key(), EllipticCurvePublicKey)
        assert second.not_valid_after_utc == until
        expiry = 'moonhost_certificate_expiry_timestamp_seconds{certificate="agents"}'
        assert float((await metrics(config))[expiry]) == until.timestamp()


async def test_half_a_renewal_is_refused_and_nothing_changes(
    tmp_path: Path, own_ports: range
) -> None:
    authority = trustme.CA()
    files = certificate_files(tmp_path, authority, trustme.KeyType.ECDSA)
    config = settings(tmp_path, own_ports, files)
    async with running(config) as edge:
        first = await shown(config, authority, None)
        key = authority.issue_cert("127.0.0.1").private_key_pem.bytes()
        (tmp_path / "key.pem").write_bytes(key)
        with capture_logs() as events:
            await edge.reloading.reload(lambda: settings_like(config, sessions={"max_sessions": 1}))
        assert [event["event"] for event in events] == ["configuration_refused"]
        assert "agents.private_key" in events[0]["why"]
        assert edge.reloading.config == config
        assert await shown(config, authority, None) == first
        told = await metrics(config)
        assert told['moonhost_configuration_reloads_total{outcome="refused"}'] == "1.0"
        assert told["moonhost_configuration_last_reload_successful"] == "0.0"


async def metrics(config: ProxyConfig) -> dict[str, str]:
    """Give every sample of a running edge, under its name and labels."""
    async with httpx.AsyncClient(trust_env=False) as client:
        page = await client.get(f"http://127.0.0.1:{config.admin.port}/metrics")
    lines = (line.rpartition(" ") for line in page.text.splitlines() if line[:1] != "#")
    return {name: value for name, _, value in lines}


def settings_like(config: ProxyConfig, **sections: Any) -> ProxyConfig:
    return ProxyConfig.model_validate(config.model_dump(exclude_unset=True) | sections)


class Told:
    """A part that notes what it is told, and in which order."""

    def __init__(self, order: list[str], name: str) -> None:
        self._order = order
        self._name = name
        self.apply_arguments: tuple[Any, ...] = ()
        self.apply_settings: dict[str, Any] = {}
        self.prepared_for: Any = None
        self.look_up = None

    def apply(self, *arguments: Any, **settings: Any) -> None:
        self._order.append(self._name)
        self.apply_arguments, self.apply_settings = arguments, settings


class Prepared(Told):
    """One that first reads something."""

    def prepare(self, config: Any) -> Any:
        self.prepared_for = config
        return lambda: self._order.append(self._name)


class PreparedInTime(Prepared):
    async def prepare(self, config: Any) -> Any:
        await trio.lowlevel.checkpoint()
        return super().prepare(config)


async def test_each_part_is_told_what_it_goes_by_once_all_is_prepared() -> None:
    order: list[str] = []
    kinds = {"certificates": Prepared, "geo": PreparedInTime}
    told = {
        each.name: kinds.get(each.name, Told)(order, each.name) for each in fields(ReloadableParts)
    }
    config = ProxyConfig.model_validate(
        {
            "hostname": "h",
            "users": {"berta": {}},
            "selection": {"policy": "load", "absence_s": 7},
            "sessions": {"launch_window_s": 4, "encrypt_video": "always"},
            "pairing": {"max_pending": 2, "max_pending_per_address": 1, "pin_timeout_s": 9},
            "limits": {
                "max_connections": 11,
                "max_connections_per_address": 3,
                "request_timeout_s": 5,
                "keep_alive_timeout_s": 6,
            },
            "regions": {"here": {"latitude": 1, "longitude": 2, "networks": ["192.0.2.0/24"]}},
            "geography": {"databases": ["/a.mmdb"]},
        }
    )
    put_in_force = await ReloadableParts(**cast("dict[str, Any]", told)).prepare(config)
    assert order == []
    put_in_force()

    assert sorted(order) == sorted(told)
    assert told["certificates"].prepared_for == config
    assert told["geo"].prepared_for == config.geography.databases
    for name in ("keeper", "play", "upkeep", "nvhttp"):
        assert told[name].apply_arguments == (config,)
    assert told["rtsp"].apply_arguments == (4, "always")
    assert told["desk"].apply_settings == config.pairing.model_dump()
    bounds = config.limits.model_dump()
    assert told["doors"].apply_settings | told["web"].apply_settings == bounds
    assert told["fleet"].apply_arguments == (config.registry_rules(), {"here": Place(1, 2)})
    choosing = told["fleet"].apply_settings
    assert choosing["policy"] is policies[PolicyName.LOAD]
    assert choosing["locate"]("192.0.2.1").region == "here"


async def test_what_has_changed_is_in_force_in_an_edge_that_runs(
    tmp_path: Path, own_ports: range
) -> None:
    config = settings(tmp_path, own_ports)
    other = settings_like(
        config,
        selection={"sticky_ttl_s": 5, "absence_s": 7},
        sessions={"max_sessions": 3, "launch_window_s": 4, "launch_attempt_timeout_s": 8},
    )
    async with running(config) as edge:
        await edge.reloading.reload(lambda: other)

        assert edge.reloading.config == other
        assert edge.play._config.sessions.max_sessions == 3
        assert edge.play._launcher._config == other.sessions
        assert edge.keeper._sticky_ttl == timedelta(seconds=5)
        assert edge.keeper._launch_window_s == 4
        assert edge.upkeep._absence_s == 7


async def test_a_chain_that_only_openssl_can_read_is_no_reason_to_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_ports: range
) -> None:
    config = settings(tmp_path, own_ports)
    async with running(config) as edge:

        def fail(_chain: bytes) -> float:
            raise ValueError("odd")

        monkeypatch.setattr(certificates, "valid_until", fail)
        with capture_logs() as events:
            await edge.reloading.reload(lambda: config)
    assert "no certificate: odd" in events[0]["why"]


async def test_a_file_that_is_gone_is_told_and_nothing_breaks(
    tmp_path: Path, own_ports: range
) -> None:
    authority = trustme.CA()
    config = settings(
        tmp_path, own_ports, certificate_files(tmp_path, authority, trustme.KeyType.ECDSA)
    )
    async with running(config) as edge:
        (tmp_path / "chain.pem").unlink()
        with capture_logs() as events:
            await edge.reloading.reload(lambda: config)
        assert "chain.pem" in events[0]["why"]
        assert await shown(config, authority, None)
