from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import cast

import pytest
import trio
import trio.testing
from proxy_fakes import (
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    identity,
    launch_query,
    new_fleet,
    new_play,
    serve_http,
    serving,
)

from backends.apps import app_id
from moonlight.applist import parse_applist
from moonlight.http import HttpRequest, Query
from moonlight.identity import ClientId, client_id
from moonlight.launch import cancel_answer, launch_answer
from moonlight.pairing import PairingClient, PairingOutcome
from moonlight.serverinfo import ServerInfo, unknown_mac
from moonlight.xml import Answer
from proxy import assets as assets_module
from proxy.assets import Assets, png_signature
from proxy.config import ProxyConfig
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.nvhttp import Caller, NvHttp, Reply
from proxy.pairing_desk import PairingDesk
from proxy.play import Play
from revdial.errors import DialRefused
from revdial.messages import AppOffer, HostOffer

HOME = "192.0.2.1"
PHONE_DER = identity("phone").certificate.der
PHONE = client_id(PHONE_DER)
DESKTOP = app_id("Desktop")
PICTURE = png_signature + b"a desktop"


@dataclass
class Edge:
    nvhttp: NvHttp
    store: FakeStore
    desk: PairingDesk
    play: Play
    pairing: NoTls
    assets: Assets
    asked: list[HttpRequest]

    async def ask(
        self,
        path: str,
        query: Query | None = None,
        *,
        der: bytes | None = PHONE_DER,
        secure: bool = True,
        method: str = "GET",
    ) -> Reply:
        caller = Caller(HOME, "203.0.113.1", der if secure else None, secure=secure)
        return await self.nvhttp.answer(HttpRequest(method, path, query or Query()), caller)


def xml(reply: Reply) -> Answer:
    assert reply.content_type == "application/xml"
    return Answer.parse(reply.body)


@pytest.fixture
async def tunnel(nursery: trio.Nursery) -> FakeTunnel:
    return FakeTunnel(nursery)


@pytest.fixture
async def fleet(tunnel: FakeTunnel, store: FakeStore) -> AsyncIterator[Fleet]:
    fleet = new_fleet(store)
    async with serving(fleet, tunnel):
        yield fleet


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    store.know(PHONE_DER, PHONE)
    return store


@pytest.fixture
async def edge(store: FakeStore, fleet: Fleet, tunnel: FakeTunnel) -> Edge:
    config = ProxyConfig(hostname="h", name="Living room")
    pairing = NoTls()
    as_pairing = cast("HostPairing", pairing)
    asked: list[HttpRequest] = []

    async def host(name: str, service: str, stream: trio.abc.Stream) -> None:
        await serve_http(stream, answer)

    async def answer(request: HttpRequest) -> tuple[int, bytes]:
        asked.append(request)
        if request.path == "/appasset":
            return (200, PICTURE) if request.query.get("appid") == "1" else (404, b"")
        answers = {"/launch": launch_answer("rtsp://h:1"), "/cancel": cancel_answer()}
        return 200, answers[request.path].encode()

    tunnel.on_stream = host
    play = new_play(config, store, fleet, as_pairing, FakeFlows())
    desk = PairingDesk(
        identity("edge"), max_pending=4, max_pending_per_address=2, pin_timeout_s=300
    )
    assets = Assets(fleet, as_pairing)
    nvhttp = NvHttp(
        config, "id-of-the-edge", store, fleet, desk, play.keeper, play, as_pairing, assets
    )
    return Edge(nvhttp, store, desk, play, pairing, assets, asked)


async def test_anybody_may_ask_who_this_is_and_hears_that_it_is_not_paired(edge: Edge) -> None:
    for known in (
        await edge.ask("/serverinfo", secure=False),
        await edge.ask("/serverinfo", secure=False, der=None),
    ):
        info = ServerInfo.parse(xml(known))
        assert (info.hostname, info.unique_id) == ("Living room", "id-of-the-edge")
        assert (info.https_port, info.http_port) == (47984, 47989)
        assert info.local_ip == "203.0.113.1"
        assert not info.paired
        assert not info.busy


async def test_a_paired_client_hears_so_and_what_it_runs(edge: Edge) -> None:
    assert ServerInfo.parse(xml(await edge.ask("/serverinfo"))).paired
    await edge.ask("/launch", launch_query(DESKTOP))
    info = ServerInfo.parse(xml(await edge.ask("/serverinfo")))
    assert (info.current_game, info.busy) == (DESKTOP, True)
    plain = ServerInfo.parse(xml(await edge.ask("/serverinfo", secure=False)))
    assert (plain.current_game, plain.busy) == (0, False)


async def test_only_paired_clients_are_told_what_to_wake(edge: Edge) -> None:
    assert ServerInfo.parse(xml(await edge.ask("/serverinfo"))).mac == unknown_mac
    edge.nvhttp._wake_mac = "02:00:5e:10:00:01"
    assert ServerInfo.parse(xml(await edge.ask("/serverinfo"))).mac == "02:00:5e:10:00:01"
    plain = await edge.ask("/serverinfo", secure=False)
    assert ServerInfo.parse(xml(plain)).mac == unknown_mac


HTTPS_PATHS = ["/applist", "/appasset", "/launch", "/resume", "/cancel"]


@pytest.mark.parametrize("path", ["/serverinfo", "/unpair", "/nothing", *HTTPS_PATHS])
@pytest.mark.parametrize("der", [None, identity("stranger").certificate.der])
async def test_over_https_strangers_get_401_in_http_and_in_xml(
    edge: Edge, path: str, der: bytes | None
) -> None:
    reply = await edge.ask(path, launch_query(DESKTOP), der=der)
    assert reply.status == 401
    assert xml(reply).status_code == 401
    assert b'query="' + path.encode() in reply.body
    assert edge.asked == []


@pytest.mark.parametrize("path", ["/", "/nothing", *HTTPS_PATHS])
async def test_over_plain_http_there_is_nothing_else(edge: Edge, path: str) -> None:
    reply = await edge.ask(path, launch_query(DESKTOP), secure=False)
    assert reply.status == 404
    assert xml(reply).status_code == 404
    assert edge.asked == []


async def test_paths_that_do_not_exist(edge: Edge) -> None:
    assert (await edge.ask("/nothing")).status == 404
    assert (await edge.ask("/appasset", Query.of(("appid", "5")))).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "BREW"])
async def test_other_methods_are_not_understood(edge: Edge, method: str) -> None:
    reply = await edge.ask("/launch", launch_query(DESKTOP), method=method)
    assert reply.status == 200
    assert xml(reply).status_code == 405
    assert edge.asked == []


async def test_errors_are_http_200_so_that_moonlight_shows_their_sentence(edge: Edge) -> None:
    await edge.ask("/launch", launch_query(DESKTOP))
    reply = await edge.ask("/launch", launch_query(app_id("Game")))
    assert reply.status == 200
    answer = xml(reply)
    assert answer.status_code == 400
    assert '"Desktop" is still running' in answer.status_message


async def test_apps_are_listed_with_the_ids_of_the_edge(edge: Edge) -> None:
    apps = parse_applist(xml(await edge.ask("/applist")))
    assert {app.title: app.id for app in apps} == {
        "Desktop": app_id("Desktop"),
        "Game": app_id("Game"),
    }


async def test_launch_and_cancel_reach_the_host(edge: Edge) -> None:
    assert xml(await edge.ask("/launch", launch_query(DESKTOP))).text("gamesession") == "1"
    assert xml(await edge.ask("/cancel")).text("cancel") == "1"
    assert [request.path for request in edge.asked] == ["/launch", "/cancel"]
    resumed = xml(await edge.ask("/resume", launch_query(DESKTOP)))
    assert (resumed.status_code, resumed.text("resume")) == (503, None)


@pytest.mark.parametrize("path", ["/serverinfo", *HTTPS_PATHS, "/unpair"])
async def test_a_store_that_is_away_is_a_503_that_a_person_understands(
    edge: Edge, path: str
) -> None:
    edge.store.away = True
    reply = await edge.ask(path, launch_query(DESKTOP))
    assert reply.status == 200
    assert xml(reply).status_code == 503
    assert "try again later" in xml(reply).status_message


async def test_plain_serverinfo_needs_no_store(edge: Edge) -> None:
    edge.store.away = True
    assert xml(await edge.ask("/serverinfo", secure=False)).status_code == 200


async def test_a_bad_launch_is_refused_without_repeating_its_key(edge: Edge) -> None:
    reply = await edge.ask("/launch", launch_query(DESKTOP, rikey="deadbeef"))
    assert xml(reply).status_code == 400
    assert b"deadbeef" not in reply.body


# Unpairing


async def test_unpairing_ends_the_session_at_its_host_and_forgets_everything(edge: Edge) -> None:
    await edge.ask("/launch", launch_query(DESKTOP))
    reply = await edge.ask("/unpair")
    assert xml(reply).status_code == 200
    assert [request.path for request in edge.asked] == ["/launch", "/cancel"]
    assert len(edge.play.keeper.table) == 0
    assert edge.store.clients == {}
    assert edge.pairing.forgotten == [(PHONE, "")]
    assert (await edge.ask("/serverinfo")).status == 401
    assert not await edge.nvhttp.forget_client(ClientId(PHONE))


async def test_unpair_over_plain_http_proves_nothing_and_unpairs_nobody(edge: Edge) -> None:
    assert xml(await edge.ask("/unpair", secure=False)).status_code == 200
    assert PHONE in edge.store.clients


# Pairing


class Pairing:
    """A client that pairs over HTTP."""

    def __init__(self, edge: Edge, name: str = "tv", pin: str = "1234") -> None:
        self.edge = edge
        self.machine = PairingClient(identity(name), pin)
        self.der = identity(name).certificate.der

    async def step(self) -> Answer:
        query = Query.of(("uniqueid", "1")) + self.machine.next_query()
        secure = self.machine.over_https
        answer = xml(await self.edge.ask("/pair", query, der=self.der, secure=secure))
        self.machine.receive(answer)
        return answer

    async def run(self) -> None:
        while not self.machine.finished:
            await self.step()


async def confirm(edge: Edge, pin: str) -> PairingOutcome:
    await trio.testing.wait_all_tasks_blocked()
    (attempt,) = edge.desk.pending()
    return await edge.desk.confirm(attempt.id, pin)


async def test_a_device_pairs_in_five_steps_and_is_known_from_then_on(
    edge: Edge, fleet: Fleet, nursery: trio.Nursery
) -> None:
    device = Pairing(edge)
    assert (await edge.ask("/serverinfo", der=device.der)).status == 401
    nursery.start_soon(device.run)
    assert await confirm(edge, "1234") is PairingOutcome.PAIRED
    await trio.testing.wait_all_tasks_blocked()
    assert device.machine.finished
    assert device.machine.server_certificate == identity("edge").certificate
    assert ServerInfo.parse(xml(await edge.ask("/serverinfo", der=device.der))).paired
    assert edge.store.clients[client_id(device.der)].name == "roth"
    (paired,) = [event for event in fleet.events.newest() if event.kind == "client_paired"]
    assert (paired.subject, paired.details) == (client_id(device.der)[:12], {"device": "roth"})


async def test_a_device_that_pairs_anew_keeps_its_user_and_its_name(
    edge: Edge, nursery: trio.Nursery
) -> None:
    device = Pairing(edge)
    known = edge.store.know(device.der, client_id(device.der))
    await edge.store.set_client_user(known, "anna")
    await edge.store.set_client_name(known, "Living room")
    nursery.start_soon(device.run)
    assert await confirm(edge, "1234") is PairingOutcome.PAIRED
    kept = edge.store.clients[known]
    assert (kept.user, kept.name) == ("anna", "Living room")


async def test_a_wrong_pin_pairs_nobody(edge: Edge, nursery: trio.Nursery) -> None:
    device = Pairing(edge)

    async def give_up() -> None:
        with pytest.raises(Exception, match="PIN"):
            await device.run()
        await edge.ask("/unpair", Query.of(("uniqueid", "1")), secure=False)

    nursery.start_soon(give_up)
    assert await confirm(edge, "9999") is PairingOutcome.WRONG_PIN
    assert edge.store.clients.keys() == {PHONE}


async def test_a_device_that_cannot_be_stored_is_not_called_paired(
    edge: Edge, nursery: trio.Nursery
) -> None:
    device = Pairing(edge)
    edge.store.failing = {"put_client"}

    async def run() -> None:
        with pytest.raises(Exception, match="503"):
            await device.run()

    nursery.start_soon(run)
    assert await confirm(edge, "1234") is PairingOutcome.BROKEN_OFF
    assert edge.store.clients.keys() == {PHONE}


async def test_the_last_step_is_for_paired_devices_only(edge: Edge) -> None:
    query = Query.of(("phrase", "pairchallenge"))
    assert xml(await edge.ask("/pair", query)).text("paired") == "1"
    for stranger in (
        await edge.ask("/pair", query, der=identity("stranger").certificate.der),
        await edge.ask("/pair", query, der=None),
        await edge.ask("/pair", query, secure=False),
    ):
        assert (xml(stranger).status_code, xml(stranger).text("paired")) == (400, "0")


@pytest.mark.parametrize(
    "query",
    [
        Query(),
        Query.of(("phrase", "other")),
        Query.of(("clientchallenge", "00" * 16)),
        Query.of(("clientchallenge", "00"), ("serverchallengeresp", "00")),
        Query.of(("phrase", "getservercert"), ("salt", "0")),
    ],
    ids=["nothing", "unknown", "out of order", "two at once", "malformed"],
)
async def test_a_step_that_may_not_be_is_answered_with_not_paired(edge: Edge, query: Query) -> None:
    reply = await edge.ask("/pair", query, secure=False)
    assert reply.status == 200
    answer = xml(reply)
    assert (answer.status_code, answer.text("paired")) == (400, "0")
    assert answer.status_message


async def test_a_pin_that_nobody_tells_ends_in_a_sentence(
    edge: Edge, autojump_clock: trio.testing.MockClock
) -> None:
    query = Query.of(("uniqueid", "1")) + Pairing(edge).machine.next_query()
    answer = xml(await edge.ask("/pair", query, secure=False))
    assert (answer.status_code, answer.text("paired")) == (408, "0")
    assert "Nobody confirmed the PIN" in answer.status_message


# Box art


async def test_box_art_comes_from_a_host_once(edge: Edge) -> None:
    query = Query.of(("appid", str(DESKTOP)), ("AssetType", "2"))
    for _ in range(2):
        reply = await edge.ask("/appasset", query)
        assert (reply.status, reply.content_type, reply.body) == (200, "image/png", PICTURE)
    (asked,) = edge.asked
    assert asked.query.get("appid") == "1"


@pytest.mark.parametrize("number", ["", "x", "-1", "99999999999", "1", str(app_id("Game"))])
async def test_no_box_art_is_a_404_that_clients_tolerate(edge: Edge, number: str) -> None:
    assert (await edge.ask("/appasset", Query.of(("appid", number)))).status == 404


async def test_a_host_that_fails_or_sends_no_picture_is_passed_over(
    edge: Edge, fleet: Fleet, nursery: trio.Nursery, tunnel: FakeTunnel
) -> None:
    tunnel.refuse = DialRefused("host_down", "no")

    async def no_picture(host: str, service: str, stream: trio.abc.Stream) -> None:
        async def answer(request: HttpRequest) -> tuple[int, bytes]:
            return 200, b"<html>"

        await serve_http(stream, answer)

    other = FakeTunnel(
        nursery,
        "agent-0",
        (HostOffer("h", apps=(AppOffer("Desktop", 5),)),),
        on_stream=no_picture,
    )
    async with serving(fleet, other):
        assert (await edge.ask("/appasset", Query.of(("appid", str(DESKTOP))))).status == 404
    assert other.dials
    assert tunnel.dials


async def test_a_silent_host_does_not_hold_a_picture_up_for_longer_than_clients_wait(
    edge: Edge, tunnel: FakeTunnel, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(host: str, service: str, stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    tunnel.on_stream = silent
    assert (await edge.ask("/appasset", Query.of(("appid", str(DESKTOP))))).status == 404
    assert trio.current_time() <= assets_module.picture_timeout_s


def test_pictures_are_kept_within_bounds_however_often_one_is_fetched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(assets_module, "max_cached_bytes", 10)
    assets = Assets(cast("Fleet", None), cast("HostPairing", None))
    for _ in range(5):
        assets._keep(1, b"1234")
    assets._keep(2, b"123456")
    assert list(assets._pictures) == [1, 2]
    assets._keep(3, b"1")
    assert list(assets._pictures) == [2, 3]
    assets._keep(4, b"x" * 11)
    assert assets._cached_bytes == sum(map(len, assets._pictures.values())) <= 10


async def test_what_goes_wrong_for_a_client_is_a_refusal(edge: Edge) -> None:
    edge.play.accepting = False
    with pytest.raises(Refused):
        await edge.play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert xml(await edge.ask("/launch", launch_query(DESKTOP))).status_code == 503
