"""`moonhost doctor` against whole deployments: one that is well, and broken ones."""

from __future__ import annotations

import json
import os
import socket
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import trustme

from moonhost.checks.judging_ports import PortState
from moonhost.checks.machine import WantedPort, try_ports
from moonhost.sample_configs import write_edge_config
from moonlight.flows import Flow
from proxy.config import ProxyConfig
from proxy.media import Media
from proxy.prober import Prober
from proxy.state_dir import agents_certificate, agents_context, agents_private_key
from settings import load_toml
from tests.backends.redis_process import RedisProcess
from tests.e2e.deployment import HostPlan, deployed
from tests.waiting import until

run_timeout_s = 40.0
WAKE = """
[wake]
ports = []
hosts = [{ backend = "bedroom/pc", via_agent = "nobody", neighbour = "pc" }]
"""


@dataclass(frozen=True)
class Told:
    """What a run of the doctor said."""

    status: int
    findings: list[dict[str, str]]

    def of(self, check: str) -> list[dict[str, str]]:
        return [found for found in self.findings if found["check"] == check]

    def marks(self, check: str) -> list[str]:
        return [found["mark"] for found in self.of(check)]

    def problems(self) -> list[dict[str, str]]:
        return [found for found in self.findings if found["mark"] == "problem"]


@pytest.fixture
def redis_server(tmp_path: Path, own_ports: range) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisProcess(folder, own_ports[0])
    server.start()
    yield server
    server.kill()


async def doctor(*arguments: str) -> Told:
    with trio.fail_after(run_timeout_s):
        ran = await trio.run_process(
            [sys.executable, "-m", "moonhost", "doctor", *arguments, "--json"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert ran.stderr == b"", ran.stderr.decode()
    told = json.loads(ran.stdout)
    assert told["ok"] is (ran.returncode == 0)
    return Told(ran.returncode, told["findings"])


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    """What is in a folder, but for SQLite's own side files, which a reader may touch."""
    return {
        path.name: (path.stat().st_mode, path.read_bytes())
        for path in folder.iterdir()
        if not path.name.endswith(("-shm", "-wal"))
    }


async def test_a_deployment_that_is_well_has_no_problem_and_stays_as_it_is(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        tunnel = deployment.edge.fleet.tunnel_of("one")
        before = snapshot(deployment.config.state_dir)

        edge = await doctor("--config", str(tmp_path / "edge.toml"))
        agent = await doctor("agent", "--config", str(tmp_path / "agent-one.toml"))

        assert deployment.edge.fleet.tunnel_of("one") is tunnel, "the agent was displaced"
        assert snapshot(deployment.config.state_dir) == before
    assert (edge.status, edge.problems()) == (0, [])
    for check in ("configuration", "admin API", "state folder", "store", "certificate", "DNS"):
        assert edge.marks(check) == ["ok"], edge.of(check)
    assert "are the edge's" in edge.of("ports")[0]["seen"]
    assert "one is connected since" in edge.of("agents")[0]["seen"]
    assert edge.of("hosts")[0]["seen"] == "one/host can be played on"
    (outside,) = edge.of("UDP from outside")
    assert (outside["mark"], "one reaches video" in outside["seen"]) == ("ok", True)

    assert (agent.status, agent.problems()) == (0, [])
    assert agent.marks("edge") == ["ok"]
    assert agent.marks("token") == ["ok", "ok"]
    assert agent.marks("hosts") == ["ok", "ok", "not_checked"]
    assert "it agrees with the edge's" in [found["seen"] for found in agent.of("clock")]
    token = (tmp_path / "one.token").read_text().strip()
    assert token not in json.dumps(agent.findings)


async def test_a_certificate_that_was_renewed_without_a_reload_is_a_problem(
    tmp_path: Path,
) -> None:
    async with deployed(tmp_path) as deployment:
        folder = deployment.config.state_dir
        for name in (agents_certificate, agents_private_key):
            (folder / name).unlink()
        agents_context(folder, deployment.config.hostname, None, None)
        told = await doctor("--config", str(tmp_path / "edge.toml"))
    stale, file = told.of("certificate")
    assert (stale["mark"], file["mark"]) == ("problem", "ok")
    assert "`systemctl reload moonhost-edge`" in stale["remedy"]


async def test_an_edge_that_was_never_started_is_checked_as_far_as_that_goes(
    tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)

    told = await doctor("--config", str(path))

    assert told.problems() == []
    assert told.marks("admin API") == ["warning"]
    assert told.marks("store") == told.marks("certificate") == ["not_checked"]
    assert told.marks("agents") == told.marks("UDP from outside") == ["not_checked"]
    assert "are free" in told.of("ports")[-1]["seen"]
    assert not (tmp_path / "edge").exists(), "the doctor made something"


async def test_an_edge_that_has_stopped_is_left_as_it_is(tmp_path: Path) -> None:
    async with deployed(tmp_path) as deployment:
        folder = deployment.config.state_dir
    before = sorted(path.name for path in folder.iterdir())

    told = await doctor("--config", str(tmp_path / "edge.toml"))

    assert told.marks("store") == ["ok"]
    assert sorted(path.name for path in folder.iterdir()) == before


async def test_a_redis_server_is_told_with_how_long_it_takes_and_when_it_is_gone(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    settings = f'[store]\nkind = "redis"\nredis_url = "{redis_server.url}"\n'
    async with deployed(tmp_path, settings=settings):
        well = await doctor("--config", str(tmp_path / "edge.toml"))
        redis_server.kill()
        gone = await doctor("--config", str(tmp_path / "edge.toml"))
    (answers,) = well.of("store")
    assert answers["mark"] in ("ok", "warning")
    assert "the Redis server answers in" in answers["seen"]
    (lost,) = gone.of("store")
    assert (lost["mark"], "cannot be reached" in lost["seen"]) == ("problem", True)


async def test_ports_that_somebody_has_are_named_with_who_it_is(
    tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)
    listen = load_toml(path, ProxyConfig, "MOONHOST_TEST", environ={}).listen
    with socket.socket() as tcp, socket.socket(type=socket.SOCK_DGRAM) as udp:
        tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        tcp.bind(("127.0.0.1", listen.https_port))
        tcp.listen()
        udp.bind(("127.0.0.1", listen.video_port))
        told = await doctor("--config", str(path))
    taken, *_ = told.problems()
    assert told.status == 1
    assert f"TCP 127.0.0.1:{listen.https_port} (" in taken["seen"]
    assert f"process {os.getpid()}" in taken["seen"]
    assert f"UDP 127.0.0.1:{listen.video_port} (" in taken["seen"]
    assert "listen.https_port or listen.video_port" in taken["remedy"]


async def test_an_edge_that_hangs_is_not_taken_for_one_that_is_down(
    tmp_path: Path, shift_from: int
) -> None:
    path = write_edge_config(tmp_path, shift_from=shift_from)
    admin = load_toml(path, ProxyConfig, "MOONHOST_TEST", environ={}).admin
    with socket.create_server((admin.address, admin.port)):
        told = await doctor("--config", str(path))
    (hangs,) = told.of("admin API")
    assert (hangs["mark"], "nothing answers there" in hangs["seen"]) == ("problem", True)
    assert "restart" in hangs["remedy"]


async def test_an_expired_certificate_for_another_name_is_two_problems(
    tmp_path: Path, shift_from: int
) -> None:
    yesterday = datetime.now(UTC) - timedelta(days=1)
    made = trustme.CA().issue_cert("other.example.org", not_after=yesterday)
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    made.cert_chain_pems[0].write_to_path(chain)
    made.private_key_pem.write_to_path(key)
    key.chmod(0o600)
    path = write_edge_config(tmp_path, shift_from=shift_from)
    path.write_text(
        path.read_text().replace(
            "[agents]\n", f'[agents]\ncertificate = "{chain}"\nprivate_key = "{key}"\n'
        )
    )

    told = await doctor("--config", str(path))

    assert told.status == 1
    seen = [found["seen"] for found in told.of("certificate") if found["mark"] == "problem"]
    assert len(seen) == 2
    assert "it is for other.example.org, and hostname is 127.0.0.1" in seen
    assert any("it expired at" in text for text in seen)


async def test_what_is_wrong_with_files_and_agents_is_told(tmp_path: Path) -> None:
    async with deployed(tmp_path, settings=WAKE) as deployment:
        store = deployment.edge.store
        for agent in ("garage", "bedroom"):
            await store.put_agent_token(agent, agent.encode(), datetime.now(UTC))
        await store.put_drain("garage", datetime.now(UTC), datetime.now(UTC))
        key = deployment.config.state_dir / "store.key"
        key.chmod(0o644)
        told = await doctor("--config", str(tmp_path / "edge.toml"))

    exposed, *more = told.of("state folder")
    assert (exposed["mark"], exposed["remedy"].startswith(f"Run `chmod 600 {key}`")) == (
        "problem",
        True,
    )
    assert more == []
    assert told.marks("store") == ["problem"]
    assert "chmod 600" in told.of("store")[0]["seen"]
    assert [found["seen"] for found in told.of("agents")] == [
        "bedroom is not connected",
        "garage is not connected",
    ]
    assert told.marks("agents") == ["warning", "warning"]
    assert "moonhost undrain garage" in told.of("drains")[0]["remedy"]
    assert told.marks("wake") == ["not_checked"]
    assert told.status == 1


async def test_a_wake_by_an_agent_that_nobody_knows_is_a_problem(tmp_path: Path) -> None:
    async with deployed(tmp_path, settings=WAKE) as deployment:
        await deployment.edge.store.put_agent_token("bedroom", b"hash", datetime.now(UTC))
        told = await doctor("--config", str(tmp_path / "edge.toml"))
    (found,) = told.of("wake")
    assert found["mark"] == "problem"
    assert "no agent nobody holds a token" in found["seen"]


async def test_every_mistake_in_a_configuration_is_a_finding(tmp_path: Path) -> None:
    path = tmp_path / "edge.toml"
    path.write_text("log_level = 'loud'\n")

    told = await doctor("--config", str(path))

    assert told.status == 1
    assert {found["seen"].partition(":")[0] for found in told.findings} == {
        "hostname",
        "log_level",
    }


async def test_what_keeps_an_agent_away_is_told(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        path = tmp_path / "agent-one.toml"
        well = path.read_text()

        async def with_change(old: str, new: str) -> Told:
            assert old in well
            path.write_text(well.replace(old, new))
            return await doctor("agent", "--config", str(path))

        ca_file = next(line for line in well.splitlines() if line.startswith("ca_file"))
        port = deployment.config.agents.port
        edges = f"wss://127.0.0.1:{port}"

        (found,) = (await with_change(edges, "wss://no-such-edge.invalid")).problems()
        assert "no-such-edge.invalid cannot be looked up" in found["seen"]

        (found,) = (await with_change(f":{port}", f":{deployment.config.admin.port}")).problems()
        assert "no TLS at" in found["seen"]

        (found,) = (await with_change(ca_file, "")).problems()
        assert "edge.ca_file" in found["remedy"]

        (found,) = (await with_change(edges, f"wss://localhost:{port}")).problems()
        assert "Write edge.url with the name that the certificate is for" in found["remedy"]

        (found,) = (await with_change("one.token", "none.token")).problems()
        assert (found["check"], "cannot be read" in found["seen"]) == ("token", True)

        deployment.hosts["one"].crash()
        host = deployment.hosts["one"]
        http = WantedPort("TCP", host.address, host.http_port, "")
        await until(lambda: try_ports([http])[0].state is PortState.FREE)
        (tmp_path / "one.token").write_text("another-token")
        path.write_text(well)
        token, *host = (await doctor("agent", "--config", str(path))).problems()
        assert "moonhost token agent one" in token["remedy"]
        assert [found["check"] for found in host] == ["hosts", "hosts"]
        assert "host does not answer at HTTP" in host[0]["seen"]
        assert "Set wolf_socket right" in host[1]["remedy"]


async def test_a_blocked_port_is_not_reached_by_a_real_agent_through_its_tunnel(
    tmp_path: Path, own_ports: range
) -> None:
    ports = dict(zip(Flow, own_ports, strict=False))
    prober = Prober(ports)
    async with deployed(tmp_path, HostPlan()) as deployment:
        media = Media(deployment.nursery, on_end=lambda *_: None, take_probe=prober.take)
        open_ports = {flow: port for flow, port in ports.items() if flow is not Flow.AUDIO}
        await deployment.nursery.start(media.serve, ["127.0.0.1"], open_ports)
        tunnel = deployment.edge.fleet.tunnel_of("one")
        assert tunnel is not None
        probed = await prober.probe(tunnel)
    assert probed.reached == open_ports.keys()
    assert probed.sent_to == "127.0.0.1"
