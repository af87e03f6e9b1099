"""A real Moonlight client plays through the edge, on hosts behind agents."""

from __future__ import annotations

import ssl
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from backends.model import BackendId
from moonlight.applist import App
from moonlight.xml import Answer
from proxy import host_apps
from proxy.fleet import Fleet
from proxy.hosts import HostRequest, ask_xml
from simulator.config import Traps
from tests.e2e.deployment import Deployment, HostPlan, deployed, start_timeout_s
from tests.e2e.real_client import ClientFailed, RealClient
from tests.waiting import until

pytestmark = pytest.mark.client

enough = 0.9
"""Share of the pictures that a busy machine still decodes; the demo's check is stricter."""


def assert_played(result: dict[str, Any]) -> None:
    assert result["frames_decoded"] >= enough * result["frames_expected"]
    assert result["audio_packets"] > 0
    assert result["mean_luma"] > 5
    assert not result["terminated"]


async def play(client: RealClient, *options: str, into: list[Any]) -> None:
    into.append(await client.stream(*options))


async def test_pairs_with_the_right_pin_and_sees_the_apps_of_all_hosts(tmp_path: Path) -> None:
    plans = (
        HostPlan("one", apps=(App("Test ball", 11), App("Snow", 12))),
        HostPlan("two", apps=(App("TEST BALL", 99), App("Desktop", 12))),
    )
    async with deployed(tmp_path, *plans) as deployment:
        client = deployment.client()

        outcome = await deployment.pair(client, "0007")

        assert outcome["pairing"] == {"outcome": "paired"}
        assert outcome["client"]["paired"] is True
        apps = await client.run("apps")
        assert [app["title"] for app in apps] == ["Desktop", "Snow", "Test ball"]
        async with deployment.admin() as edge:
            assert len(await edge.get_all("/api/v1/clients")) == 1


async def test_a_wrong_pin_is_told_to_both_sides_and_leaves_nothing(tmp_path: Path) -> None:
    async with deployed(tmp_path) as deployment:
        client = deployment.client()

        outcome = await deployment.pair(client, "1234", told="1235")

        assert outcome["pairing"] == {"outcome": "wrong_pin"}
        assert isinstance(outcome["client"], ClientFailed)
        assert (await client.run("serverinfo"))["paired"] is False
        async with deployment.admin() as edge:
            assert await edge.get_all("/api/v1/clients") == []
            assert await edge.get_all("/api/v1/pairings") == []


async def test_an_unpaired_client_gets_401_and_falls_back_to_http(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = deployment.client()

        assert (await client.run("serverinfo"))["paired"] is False
        with pytest.raises(ClientFailed) as refusal:
            await client.run("apps")

        assert refusal.value.status == 401
        assert "not authorized" in str(refusal.value)


@pytest.mark.parametrize("bitrate", ["10000", "20000"])
@pytest.mark.parametrize("traps", [Traps.wolf_2026(), Traps.wolf_2024(), Traps.none()])
async def test_plays_with_and_without_a_host_in_its_rtsp(
    tmp_path: Path, bitrate: str, traps: Traps
) -> None:
    """Below 15 Mbit/s the client's RTSP says 0.0.0.0, and nothing in it names the session."""
    async with deployed(tmp_path, HostPlan(traps=traps)) as deployment:
        client = await deployment.paired_client()

        result = await client.stream("--bitrate", bitrate)

        assert_played(result)
        (session,) = await deployment.sessions()
        assert session["flows"]["video"]["rtp_missing"] == 0
        await client.run("cancel")
        assert await deployment.sessions() == []
        assert deployment.hosts["one"].sessions() == ()


@pytest.mark.parametrize("hosts", [1, 2])
async def test_two_clients_of_one_address_play_at_once(tmp_path: Path, hosts: int) -> None:
    plans = [HostPlan(f"host{number}") for number in range(hosts)]
    async with deployed(tmp_path, *plans) as deployment:
        clients = [await deployment.paired_client() for _ in range(2)]
        results: list[Any] = []

        async with trio.open_nursery() as nursery:
            for client in clients:
                nursery.start_soon(
                    lambda client=client: play(client, "--bitrate", "10000", into=results)
                )

        for result in results:
            assert_played(result)
        sessions = await deployment.sessions()
        assert len({session["backend"] for session in sessions}) == hosts
        assert len({session["client"] for session in sessions}) == 2


async def test_pauses_resumes_on_the_same_backend_and_quits(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan("one"), HostPlan("two")) as deployment:
        client = await deployment.paired_client()
        assert_played(await client.stream())
        (before,) = await paused(deployment)

        assert (await client.run("serverinfo"))["current_game"] != 0
        assert_played(await client.stream("--resume"))

        (after,) = await paused(deployment)
        assert (after["id"], after["backend"]) == (before["id"], before["backend"])
        assert (await client.run("cancel"))["current_game"] == 0
        assert await deployment.sessions() == []
        assert all(host.sessions() == () for host in deployment.hosts.values())


async def paused(deployment: Deployment) -> Any:
    """Wait until no session streams any more."""

    async def nobody_streams() -> bool:
        sessions = await deployment.sessions()
        return all(session["state"] == "paused" for session in sessions)

    await until(nobody_streams, 15)
    return await deployment.sessions()


async def test_launching_the_running_app_goes_on_with_it(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()
        assert_played(await client.stream())
        (before,) = await deployment.sessions()

        assert_played(await client.stream())

        (after,) = await deployment.sessions()
        assert after["id"] == before["id"]


async def test_another_app_is_refused_while_one_runs(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()
        await client.stream()

        with capture_logs() as logs, pytest.raises(ClientFailed, match="still running") as refusal:
            await client.stream("--app", "Snow")

        assert refusal.value.status == 400
        assert len(refusals(logs)) == 1
        assert len(await deployment.sessions()) == 1


async def test_an_app_that_no_host_has_is_refused(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()

        with capture_logs() as logs, pytest.raises(ClientFailed, match="No computer that has"):
            await client.stream("--app-id", "12345")

        assert [log["reason"] for log in refusals(logs)] == ["no_such_app"]
        await assert_nothing_left(deployment)


async def test_without_any_host_a_launch_is_refused(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()
        (app, *_) = await client.run("apps")
        deployment.agents["one"].cancel()
        await until(lambda: not deployment.is_up("one/host"), start_timeout_s)

        with capture_logs() as logs, pytest.raises(ClientFailed, match="not answering right now"):
            await client.stream("--app-id", str(app["id"]))

        assert len(refusals(logs)) == 1
        await assert_nothing_left(deployment)


async def test_a_full_host_is_refused_with_the_reason(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(max_sessions=1)) as deployment:
        first, second = [await deployment.paired_client() for _ in range(2)]
        await first.stream()

        with pytest.raises(ClientFailed, match="in use right now"):
            await second.stream()

        assert len(await deployment.sessions()) == 1


async def test_a_host_that_dies_during_the_launch_is_told_plainly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()

        async def ask_and_see_it_die(
            fleet: Fleet, backend: BackendId, request: HostRequest, tls: ssl.SSLContext | None
        ) -> Answer:
            if request.path == "/launch":
                deployment.hosts["one"].crash()
            return await ask_xml(fleet, backend, request, tls)

        monkeypatch.setattr(host_apps, "ask_xml", ask_and_see_it_die)

        with capture_logs() as logs, pytest.raises(ClientFailed, match="did not start the app"):
            await client.stream()

        assert len(refusals(logs)) == 1
        await assert_nothing_left(deployment)


def refusals(logs: list[Any]) -> list[Any]:
    """Return what the edge logged at warning or above."""
    return [log for log in logs if log["log_level"] in {"warning", "error"} and "reason" in log]


async def assert_nothing_left(deployment: Deployment) -> None:
    assert await deployment.sessions() == []
    assert await deployment.edge.store.list_sessions() == ()
    assert all(backend.sessions == 0 for backend in deployment.edge.fleet.backends())
