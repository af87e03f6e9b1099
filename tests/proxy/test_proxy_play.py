from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
    RIKEY,
    FakeFlows,
    FakeStore,
    FakeTunnel,
    NoTls,
    launch_query,
    new_fleet,
    new_play,
    serve_http,
    serving,
    session,
)

from backends.apps import app_id
from backends.errors import StoreError
from backends.model import BackendId
from backends.records import SessionRecord
from moonlight.flows import Flow
from moonlight.http import HttpRequest
from moonlight.identity import ClientId
from moonlight.launch import cancel_answer, launch_answer, resume_answer, session_url
from moonlight.video_encryption import VideoSealer
from moonlight.xml import Answer
from proxy.config import ProxyConfig, Sessions
from proxy.errors import HostIdentityChanged, HostRefused, HostUnavailable, Refused
from proxy.fleet import Fleet
from proxy.play import Play, agent_return_timeout_s
from proxy.session_records import to_record
from proxy.sessions import (
    FlowTerms,
    PortRules,
    SessionId,
    SessionState,
    VideoEncryption,
    VideoEncryptor,
)
from revdial.errors import DialRefused
from revdial.messages import AppOffer, HostOffer

PHONE, TV = ClientId("phone"), ClientId("tv")
HOME = "192.0.2.1"
DESKTOP, GAME = app_id("Desktop"), app_id("Game")
HOST_URL = "rtsp://203.0.113.9:48010"


class Host:
    """A host that launches, resumes and cancels as it is told to."""

    def __init__(self) -> None:
        self.asked: list[HttpRequest] = []
        self.answers: dict[str, Answer] = {
            "/launch": launch_answer(HOST_URL),
            "/resume": resume_answer("rtsp://203.0.113.10:48010"),
            "/cancel": cancel_answer(),
        }
        self.then: dict[str, Callable[[], Any]] = {}
        self.silent: set[str] = set()

    @property
    def paths(self) -> list[str]:
        return [request.path for request in self.asked]

    async def on_stream(self, host: str, service: str, stream: trio.abc.Stream) -> None:
        await serve_http(stream, self.answer)

    async def answer(self, request: HttpRequest) -> tuple[int, bytes]:
        self.asked.append(request)
        if request.path in self.silent:
            await trio.sleep_forever()
        if then := self.then.get(request.path):
            then()
        return 200, self.answers[request.path].encode()


@pytest.fixture
def host() -> Host:
    return Host()


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    for client in (PHONE, TV):
        store.know(b"", client)
    return store


@pytest.fixture
def pairing() -> NoTls:
    return NoTls()


@pytest.fixture
def flows() -> FakeFlows:
    return FakeFlows()


@pytest.fixture
def config() -> ProxyConfig:
    return ProxyConfig(hostname="h")


@pytest.fixture
async def tunnel(nursery: trio.Nursery, host: Host) -> FakeTunnel:
    return FakeTunnel(nursery, on_stream=host.on_stream)


@pytest.fixture
async def fleet(store: FakeStore, tunnel: FakeTunnel) -> AsyncIterator[Fleet]:
    fleet = new_fleet(store)
    async with serving(fleet, tunnel):
        yield fleet


@pytest.fixture
async def play(
    config: ProxyConfig, store: FakeStore, fleet: Fleet, pairing: NoTls, flows: FakeFlows
) -> Play:
    return new_play(config, store, fleet, pairing, flows)


def taken(fleet: Fleet, backend: BackendId = BACKEND) -> int:
    found = fleet.backend(backend)
    assert found is not None
    return found.sessions


async def refusal(launch: Any) -> Refused:
    with pytest.raises(Refused) as caught:
        await launch
    assert RIKEY not in str(caught.value)
    return caught.value


# Launch


async def test_a_launch_goes_to_a_host_with_the_hosts_own_app_id_and_all_else_unchanged(
    play: Play, host: Host, fleet: Fleet, store: FakeStore
) -> None:
    query = launch_query(GAME, gcmap="5")
    answer = await play.launch(PHONE, HOME, query)
    (asked,) = host.asked
    assert asked.path == "/launch"
    assert asked.query == query.replaced(appid="2")
    (one,) = play.keeper.table
    assert (one.client, one.client_address, one.backend) == (PHONE, HOME, BACKEND)
    assert (one.app_id, one.app_title, one.mode) == (GAME, "Game", "1920x1080x60")
    assert one.state is SessionState.LAUNCHED
    assert str(one.host_rtsp) == HOST_URL
    url = session_url(answer)
    assert (url.host, url.port, url.encrypted) == (one.label, 48010, False)
    assert play.keeper.table.current_app(PHONE) == GAME
    assert play.keeper.table.current_app(TV) == 0
    assert store.sessions.keys() == {one.id}
    assert store.sticky[PHONE].backend_id == BACKEND
    assert taken(fleet) == 1
    assert len(play._client_locks) == 0


async def test_each_session_has_a_source_address_of_its_own_at_the_host(
    play: Play, tunnel: FakeTunnel
) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    await play.launch(TV, HOME, launch_query(DESKTOP))
    ids = {one.id for one in play.keeper.table}
    assert {origin for _, _, origin, _ in tunnel.dials} == ids
    assert len(ids) == 2


async def test_two_players_behind_one_address_get_ports_that_tell_them_apart(play: Play) -> None:
    first = session_url(await play.launch(PHONE, HOME, launch_query(DESKTOP)))
    second = session_url(await play.launch(TV, HOME, launch_query(DESKTOP)))
    assert (first.port, second.port) == (48010, 48011)


async def test_the_last_slot_is_given_once(
    play: Play, tunnel: FakeTunnel, fleet: Fleet, store: FakeStore
) -> None:
    clients = [PHONE, TV, ClientId("tablet")]
    store.know(b"", "tablet")
    reasons: list[str] = []

    async def launch(client: ClientId) -> None:
        try:
            await play.launch(client, HOME, launch_query(DESKTOP))
        except Refused as error:
            reasons.append(error.reason)

    async with trio.open_nursery() as launches:
        for client in clients:
            launches.start_soon(launch, client)
    assert reasons == ["all_full"]
    assert taken(fleet) == 2


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        (launch_query(DESKTOP, rikey="short"), "bad_launch"),
        (launch_query(DESKTOP, mode="huge"), "bad_launch"),
        (launch_query(0), "bad_launch"),
        (launch_query(123), "no_such_app"),
    ],
)
async def test_a_launch_of_what_cannot_be_had_reaches_no_host(
    play: Play, host: Host, query: Any, reason: str
) -> None:
    assert (await refusal(play.launch(PHONE, HOME, query))).reason == reason
    assert host.asked == []
    assert len(play.keeper.table) == 0


async def test_an_edge_that_drains_launches_nothing_new_but_goes_on(play: Play) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    play.accepting = False
    assert (await refusal(play.launch(TV, HOME, launch_query(DESKTOP)))).reason == "draining"
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    await play.resume(PHONE, HOME, launch_query(DESKTOP))


async def test_a_full_edge_says_so(play: Play, config: ProxyConfig, host: Host) -> None:
    play._config = config.model_copy(
        update={"sessions": config.sessions.model_copy(update={"max_sessions": 1})}
    )
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    error = await refusal(play.launch(TV, HOME, launch_query(DESKTOP)))
    assert (error.status, error.reason) == (503, "too_many_sessions")
    assert host.paths == ["/launch"]


def nothing_left(play: Play, fleet: Fleet, store: FakeStore) -> bool:
    return (
        len(play.keeper.table) == 0
        and taken(fleet) == 0
        and not store.sessions
        and len(play._client_locks) == 0
        and play.keeper.table.current_app(PHONE) == 0
    )


async def test_a_host_that_says_no_is_not_asked_to_cancel_and_leaves_nothing(
    play: Play, host: Host, fleet: Fleet, store: FakeStore
) -> None:
    host.answers["/launch"] = Answer.error(503, "GPU on fire", "/launch")
    error = await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))
    assert (error.status, error.reason) == (503, "host_refused")
    assert "GPU on fire" in str(error.__cause__)
    assert "fire" not in str(error), "players are told what they can do about it"
    assert host.paths == ["/launch"]
    assert nothing_left(play, fleet, store)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (launch_answer("http://203.0.113.9"), "bad_session_url"),
        (Answer.ok(), "bad_session_url"),
    ],
)
async def test_a_launch_that_the_edge_cannot_use_is_ended_at_the_host(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, answer: Answer, reason: str
) -> None:
    host.answers["/launch"] = answer
    assert (await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))).reason == reason
    assert host.paths == ["/launch", "/cancel"]
    assert nothing_left(play, fleet, store)


async def test_a_host_that_never_answers_is_given_up_and_told_to_cancel(
    play: Play,
    host: Host,
    fleet: Fleet,
    store: FakeStore,
    config: ProxyConfig,
    autojump_clock: trio.testing.MockClock,
) -> None:
    host.silent = {"/launch", "/cancel"}
    error = await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))
    assert error.reason == "host_timeout"
    assert host.paths == ["/launch", "/cancel"]
    assert trio.current_time() < config.sessions.launch_timeout_s + 10
    assert nothing_left(play, fleet, store)


async def test_a_host_that_cannot_be_reached_leaves_nothing(
    play: Play, tunnel: FakeTunnel, fleet: Fleet, store: FakeStore
) -> None:
    tunnel.refuse = DialRefused("host_down", "connection refused")
    assert (await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))).reason == "host_down"
    assert nothing_left(play, fleet, store)


@pytest.mark.parametrize(
    "failure",
    [HostUnavailable("host_pairing_timeout", "x"), HostRefused(502, "host_refused_pairing", "x")],
)
async def test_a_pairing_that_fails_reaches_no_host_and_leaves_nothing(
    play: Play,
    host: Host,
    pairing: NoTls,
    fleet: Fleet,
    store: FakeStore,
    failure: HostUnavailable | HostRefused,
) -> None:
    pairing.failure = failure
    error = await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))
    assert error.reason == failure.reason
    assert host.asked == []
    assert nothing_left(play, fleet, store)


@pytest.mark.parametrize("method", ["add_session", "put_sticky"])
async def test_a_store_that_fails_after_the_host_launched_has_the_host_told(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, method: str
) -> None:
    store.failing = {method}
    with pytest.raises(StoreError):
        await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert host.paths == ["/launch", "/cancel"]
    assert nothing_left(play, fleet, store)


@pytest.mark.parametrize("method", ["app_ids_for", "get_sticky"])
async def test_a_store_that_fails_before_reaches_no_host(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, method: str
) -> None:
    store.failing = {method}
    with pytest.raises(StoreError):
        await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert host.asked == []
    assert nothing_left(play, fleet, store)


@pytest.mark.parametrize("silent", ["/launch", None])
async def test_a_launch_that_is_cancelled_leaves_nothing(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, silent: str | None
) -> None:
    with trio.CancelScope() as scope:
        host.silent = {silent} if silent else set()
        host.then["/launch"] = scope.cancel
        async with trio.open_nursery() as launching:
            launching.start_soon(play.launch, PHONE, HOME, launch_query(DESKTOP))
            await trio.testing.wait_all_tasks_blocked()
            scope.cancel()
    assert host.paths == ["/launch", "/cancel"]
    assert nothing_left(play, fleet, store)


async def test_an_app_that_comes_online_amid_a_launch_can_be_chosen(
    config: ProxyConfig, store: FakeStore, host: Host, flows: FakeFlows, nursery: trio.Nursery
) -> None:
    """The catalogue was read before the backend that is then chosen was there."""
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), flows)
    full = HostOffer("full", max_sessions=0, apps=(AppOffer("Desktop", 1),))
    late = HostOffer("late", max_sessions=1, apps=(AppOffer("DESKTOP ", 77),))
    first = FakeTunnel(nursery, "a", (full,), on_stream=host.on_stream)
    second = FakeTunnel(nursery, "b", (late,), on_stream=host.on_stream)
    async with serving(fleet, first):
        catalogue = await fleet.catalogue()
        assert len(catalogue.apps) == 1
        async with serving(fleet, second):

            async def as_it_was(_access: object = None) -> Any:
                return catalogue

            fleet.catalogue = as_it_was  # type: ignore[method-assign]
            await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert host.asked[0].query.get("appid") == "77"


async def test_a_host_that_forgot_the_client_is_paired_anew_once(
    play: Play, host: Host, pairing: NoTls
) -> None:
    def remember() -> None:
        host.answers["/launch"] = launch_answer(HOST_URL)

    host.answers["/launch"] = Answer.error(401, "not authorized", "/launch")
    forget = pairing.forget

    async def forget_and_pair(client: ClientId, backend: BackendId) -> None:
        await forget(client, backend)
        remember()

    pairing.forget = forget_and_pair  # type: ignore[method-assign]
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert pairing.forgotten == [(PHONE, BACKEND)]
    assert host.paths == ["/launch", "/launch"]


async def test_a_host_that_was_set_up_anew_is_paired_anew(play: Play, pairing: NoTls) -> None:
    pairing.failure = HostIdentityChanged("host_identity_changed", "x")
    forget = pairing.forget

    async def forget_and_pair(client: ClientId, backend: BackendId) -> None:
        await forget(client, backend)
        pairing.failure = None

    pairing.forget = forget_and_pair  # type: ignore[method-assign]
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert pairing.forgotten == [(PHONE, BACKEND)]


async def test_a_host_that_never_knows_the_client_is_not_asked_for_ever(
    play: Play, host: Host, fleet: Fleet, store: FakeStore
) -> None:
    host.answers["/launch"] = Answer.error(401, "not authorized", "/launch")
    assert (await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))).status == 503
    assert host.paths == ["/launch"] * 2
    assert nothing_left(play, fleet, store)


async def test_requests_of_one_client_wait_for_each_other_but_not_for_ever(
    play: Play, host: Host, config: ProxyConfig, autojump_clock: trio.testing.MockClock
) -> None:
    host.silent = {"/launch"}
    reasons: list[str] = []

    async def launch() -> None:
        reasons.append((await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))).reason)

    async def resume() -> None:
        reasons.append((await refusal(play.resume(PHONE, HOME, launch_query(DESKTOP)))).reason)

    async with trio.open_nursery() as requests:
        requests.start_soon(launch)
        await trio.testing.wait_all_tasks_blocked()
        requests.start_soon(resume)
    assert reasons == ["client_busy", "host_timeout"]
    assert len(play._client_locks) == 0


@pytest.mark.parametrize("resumes", [False, True])
async def test_nothing_happens_for_a_request_once_its_client_has_stopped_waiting(
    play: Play,
    host: Host,
    config: ProxyConfig,
    autojump_clock: trio.testing.MockClock,
    resumes: bool,
) -> None:
    """Also where it had to wait for one before it: clients wait 120 s and 30 s, not twice that."""
    patience_s = 30.0 if resumes else 120.0
    request = play.resume if resumes else play.launch
    if resumes:
        await play.launch(PHONE, HOME, launch_query(DESKTOP))
    host.silent = {"/launch", "/resume", "/cancel"}
    took: list[float] = []

    async def ask() -> None:
        began = trio.current_time()
        await refusal(request(PHONE, HOME, launch_query(DESKTOP)))
        took.append(trio.current_time() - began)

    async with trio.open_nursery() as requests:
        requests.start_soon(ask)
        for pause_s in (0.35, 0.1):
            await trio.sleep(pause_s * patience_s)
            requests.start_soon(ask)
    assert len(took) == 3
    assert max(took) < patience_s
    assert host.paths.count("/resume" if resumes else "/launch") > 1


# The app already running, resume, cancel


async def test_launching_the_running_app_goes_on_with_it(
    play: Play, host: Host, flows: FakeFlows, fleet: Fleet
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    one.flows[Flow.VIDEO] = FlowTerms(47998, "x" * 16, None)
    one.control_client = (HOME, 50_000)
    answer = await play.launch(PHONE, "198.51.100.7", launch_query(GAME))
    assert answer.text("gamesession") == "1"
    assert host.paths == ["/launch", "/resume"]
    assert host.asked[1].query.get("appid") == "2"
    assert list(play.keeper.table) == [one]
    assert str(one.host_rtsp) == "rtsp://203.0.113.10:48010"
    assert one.client_address == "198.51.100.7"
    assert one.flows == {}
    assert one.control_client is None, "a late datagram of the former connection proves nothing"
    assert flows.stopped == [one.id]
    assert taken(fleet) == 1


@pytest.mark.parametrize(
    ("config", "corever", "encrypted"),
    [
        (ProxyConfig(hostname="h"), "1", True),
        (ProxyConfig(hostname="h"), "2", True),
        (ProxyConfig(hostname="h"), "0", False),
        (ProxyConfig(hostname="h", sessions=Sessions(rtsp_encryption="never")), "1", False),
    ],
    ids=["auto", "later", "client cannot", "never"],
)
async def test_encrypted_rtsp_is_offered_to_who_can_unless_the_setting_forbids(
    play: Play, host: Host, store: FakeStore, corever: str, encrypted: bool
) -> None:
    query = launch_query(GAME, corever=corever)
    assert session_url(await play.launch(PHONE, HOME, query)).encrypted is encrypted
    assert host.asked[0].query.get("corever") == corever, "the host decides for itself"
    (one,) = play.keeper.table
    assert one.rtsp_encrypted is encrypted

    one.rtsp_sequence = 7
    resumed = await play.resume(PHONE, HOME, query.replaced(corever="0", rikey="0" * 32))
    assert not session_url(resumed).encrypted
    assert (one.rtsp_encrypted, one.rtsp_sequence, one.corever) == (False, 0, 0)
    details = store.sessions[one.id].details
    assert details == to_record(one).details
    resumed = await play.resume(PHONE, HOME, query.replaced(rikey="1" * 32))
    assert session_url(resumed).encrypted is encrypted


@pytest.mark.parametrize("corever", ["0", "1"])
async def test_what_a_host_wants_encrypted_is_no_matter_between_its_client_and_the_edge(
    play: Play, host: Host, corever: str
) -> None:
    host.answers["/launch"] = launch_answer("rtspenc://203.0.113.9:48010")
    told = session_url(await play.launch(PHONE, HOME, launch_query(GAME, corever=corever)))
    assert told.encrypted is (corever == "1")
    (one,) = play.keeper.table
    assert one.host_rtsp.encrypted


async def test_another_app_is_refused_by_the_name_of_the_running_one(
    play: Play, host: Host
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    error = await refusal(play.launch(PHONE, HOME, launch_query(DESKTOP)))
    assert (error.status, error.reason) == (400, "app_already_running")
    assert '"Game"' in str(error)
    assert host.paths == ["/launch"]


async def test_a_session_lost_with_its_backend_gives_way_to_a_new_launch(
    config: ProxyConfig,
    store: FakeStore,
    host: Host,
    flows: FakeFlows,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), flows)
    first = FakeTunnel(nursery, "agent-1", on_stream=host.on_stream)
    second = FakeTunnel(nursery, "agent-2", on_stream=host.on_stream)
    async with serving(fleet, first):
        await play.launch(PHONE, HOME, launch_query(GAME))
        (lost,) = play.keeper.table
    async with serving(fleet, second):
        await play.launch(PHONE, HOME, launch_query(DESKTOP))
    (one,) = play.keeper.table
    assert one.backend == "agent-2/wolf"
    assert flows.forgotten == [lost.id]
    assert store.sessions.keys() == {one.id}


async def test_a_session_outlives_an_agent_that_is_just_dialling_anew(
    config: ProxyConfig,
    store: FakeStore,
    host: Host,
    flows: FakeFlows,
    nursery: trio.Nursery,
    autojump_clock: trio.testing.MockClock,
) -> None:
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), flows)
    async with serving(fleet, FakeTunnel(nursery, "agent-1", on_stream=host.on_stream)):
        await play.launch(PHONE, HOME, launch_query(GAME))
        (before,) = play.keeper.table

    async def come_back(*, task_status: trio.TaskStatus[None]) -> None:
        task_status.started()
        await trio.sleep(agent_return_timeout_s / 2)
        async with serving(fleet, FakeTunnel(nursery, "agent-1", on_stream=host.on_stream)):
            await trio.sleep_forever()

    await nursery.start(come_back)
    await play.launch(PHONE, HOME, launch_query(GAME))

    assert [session.id for session in play.keeper.table] == [before.id]
    assert host.paths == ["/launch", "/resume"]


async def test_resume_goes_to_where_the_app_runs(
    play: Play, host: Host, fleet: Fleet, store: FakeStore
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    await play.keeper.pause(one.id, "test")
    query = launch_query(GAME)
    answer = await play.resume(PHONE, HOME, query)
    assert answer.text("resume") == "1"
    assert host.asked[1].path == "/resume"
    assert host.asked[1].query == query
    assert one.state is SessionState.LAUNCHED
    assert store.sessions[one.id].state == "launched"
    assert taken(fleet) == 1


async def test_what_a_late_handshake_has_set_up_is_given_back_when_its_client_leaves(
    play: Play, flows: FakeFlows
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME, corever="0"))
    (one,) = play.keeper.table
    table = play.keeper.table
    await play.keeper.pause(one.id, "no_handshake")
    table.set_up(one)
    await play.keeper.pause(one.id, "client_left")
    assert flows.stopped == [one.id, one.id]
    later = trio.current_time() + PortRules(range(1), range(1)).rest_s
    assert table.choose_ports(TV, HOME, later, own_udp=True).own_udp == one.own_udp_ports


async def test_a_resume_begins_without_encryption_of_video_and_with_the_new_key(
    play: Play, host: Host
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    one.video = VideoEncryption(VideoEncryptor.EDGE, next_counter=77)
    one.sealer = VideoSealer(one.key.rikey, 0)
    await play.resume(PHONE, HOME, launch_query(GAME, rikey="07" * 16))
    assert one.key.rikey == b"\x07" * 16
    assert one.sealer is None
    # Whatever key it brings, used before or not, no counter comes again.
    assert one.video == VideoEncryption(VideoEncryptor.NOBODY, next_counter=77)


async def test_nothing_to_resume(play: Play, host: Host) -> None:
    error = await refusal(play.resume(PHONE, HOME, launch_query(GAME)))
    assert error.reason == "nothing_to_resume"
    assert host.asked == []


async def test_an_app_that_is_gone_at_its_host_is_gone_here(
    play: Play, host: Host, fleet: Fleet, store: FakeStore
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    host.answers["/resume"] = Answer.error(400, "no session", "/resume")
    error = await refusal(play.resume(PHONE, HOME, launch_query(GAME)))
    assert '"Game" is not running any more' in str(error)
    assert nothing_left(play, fleet, store)


async def test_a_host_that_is_away_keeps_its_session(
    play: Play, tunnel: FakeTunnel, fleet: Fleet
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    tunnel.refuse = DialRefused("host_down", "connection refused")
    error = await refusal(play.resume(PHONE, HOME, launch_query(GAME)))
    assert "cannot be reached" in str(error)
    assert len(play.keeper.table) == 1
    assert taken(fleet) == 1


async def test_resume_answers_while_the_client_still_waits(
    play: Play, host: Host, autojump_clock: trio.testing.MockClock
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    host.silent = {"/resume"}
    await refusal(play.resume(PHONE, HOME, launch_query(GAME)))
    assert trio.current_time() < 30


async def test_a_session_ended_amid_its_resume_stays_ended(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, nursery: trio.Nursery
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    host.then["/resume"] = lambda: nursery.start_soon(play.keeper.end, one, "test")
    assert (await refusal(play.resume(PHONE, HOME, launch_query(GAME)))).reason == "session_ended"
    assert nothing_left(play, fleet, store)


async def test_a_resume_without_a_port_left_changes_nothing(
    play: Play, flows: FakeFlows, monkeypatch: pytest.MonkeyPatch
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    before = to_record(one).details

    def none_left(*_: object, **__: object) -> int:
        raise LookupError

    monkeypatch.setattr(play.keeper.table, "choose_ports", none_left)
    assert (await refusal(play.resume(PHONE, "x", launch_query(GAME)))).reason == "no_rtsp_port"
    assert to_record(one).details == before
    assert flows.stopped == []


async def test_a_launch_without_a_port_left_is_undone(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none_left(*_: object, **__: object) -> int:
        raise LookupError

    monkeypatch.setattr(play.keeper.table, "choose_ports", none_left)
    assert (await refusal(play.launch(PHONE, HOME, launch_query(GAME)))).reason == "no_rtsp_port"
    assert host.paths == ["/launch", "/cancel"]
    assert nothing_left(play, fleet, store)


async def test_cancel_ends_the_app_there_and_here(
    play: Play, host: Host, fleet: Fleet, store: FakeStore, flows: FakeFlows
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    query = launch_query(GAME)
    assert (await play.cancel(PHONE, query)).text("cancel") == "1"
    assert host.paths == ["/launch", "/cancel"]
    assert host.asked[1].query == query
    assert flows.forgotten == [one.id]
    assert nothing_left(play, fleet, store)


async def test_cancel_with_nothing_running_is_fine(play: Play, host: Host) -> None:
    assert (await play.cancel(PHONE, launch_query(GAME))).status_code == 200
    assert host.asked == []


@pytest.mark.parametrize("how", ["unreachable", "silent", "refuses", "store away"])
async def test_cancel_frees_the_client_whatever_the_host_does(
    play: Play,
    host: Host,
    tunnel: FakeTunnel,
    fleet: Fleet,
    store: FakeStore,
    autojump_clock: trio.testing.MockClock,
    how: str,
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    match how:
        case "unreachable":
            tunnel.refuse = DialRefused("host_down", "connection refused")
        case "silent":
            host.silent = {"/cancel"}
        case "refuses":
            host.answers["/cancel"] = Answer.error(500, "no", "/cancel")
        case _:
            store.away = True
    assert (await play.cancel(PHONE, launch_query(GAME))).status_code == 200
    assert len(play.keeper.table) == 0
    assert taken(fleet) == 0
    assert trio.current_time() < 30


async def test_an_operator_ends_a_session_as_its_client_would(play: Play, host: Host) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    assert await play.end_at_host(one.id)
    assert not await play.end_at_host(one.id)
    assert host.paths == ["/launch", "/cancel"]


# States, store, restart


async def test_states_are_written_as_they_change(play: Play, store: FakeStore) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    await play.keeper.note_flow(one, Flow.VIDEO, FlowTerms(47998, "x" * 16, None))
    await play.keeper.note_streaming(one)
    assert store.sessions[one.id].state == "streaming"
    assert store.sessions[one.id].details == to_record(one).details
    await play.keeper.pause(one.id, "test")
    assert store.sessions[one.id].state == "paused"


async def test_news_of_a_session_that_has_ended_does_not_bring_it_back(
    play: Play, store: FakeStore
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    await play.keeper.end(one, "test")
    await play.keeper.note_flow(one, Flow.VIDEO, FlowTerms(47998, "x" * 16, None))
    await play.keeper.note_streaming(one)
    await play.keeper.pause(one.id, "test")
    await play.keeper.end(one, "test")
    assert store.sessions == {}


async def test_where_control_comes_from_is_kept_for_a_restart(play: Play, store: FakeStore) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    await play.keeper.note_control_client(one.id, (HOME, 50_000))
    assert one.control_client == (HOME, 50_000)
    assert store.sessions[one.id].details == to_record(one).details
    await play.keeper.note_control_client(SessionId("gone"), (HOME, 50_000))
    assert store.sessions.keys() == {one.id}


async def test_a_clients_address_is_kept_without_the_interface_that_control_came_in_by(
    play: Play,
) -> None:
    """What other connections and datagrams of it are held against names no interface."""
    await play.launch(PHONE, "fe80::5", launch_query(GAME))
    (one,) = play.keeper.table
    await play.keeper.note_control_client(one.id, ("fe80::5%3", 50_000))
    assert one.control_client == ("fe80::5%3", 50_000)
    assert one.client_address == "fe80::5"


async def test_a_store_that_is_away_stops_no_stream(play: Play, store: FakeStore) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    store.away = True
    await play.keeper.note_flow(one, Flow.VIDEO, FlowTerms(47998, "x" * 16, None))
    await play.keeper.note_streaming(one)
    assert one.state is SessionState.STREAMING
    await play.keeper.pause(one.id, "test")
    await play.keeper.end(one, "test")
    assert len(play.keeper.table) == 0


async def test_a_client_that_never_comes_is_paused_after_the_launch_window(
    play: Play, flows: FakeFlows, config: ProxyConfig, autojump_clock: trio.testing.MockClock
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (one,) = play.keeper.table
    await trio.sleep(config.sessions.launch_window_s - 1)
    await play.keeper.pause_abandoned()
    assert one.state is SessionState.LAUNCHED
    await trio.sleep(2)
    await play.keeper.pause_abandoned()
    assert one.state is SessionState.PAUSED
    assert flows.stopped == [one.id]


async def test_quiet_is_when_nobody_streams(play: Play, nursery: trio.Nursery) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    await play.launch(TV, HOME, launch_query(GAME))
    first, second = play.keeper.table
    quiet = trio.Event()

    async def wait() -> None:
        await play.keeper.wait_until_quiet()
        quiet.set()

    nursery.start_soon(wait)
    await play.keeper.pause(first.id, "test")
    await trio.testing.wait_all_tasks_blocked()
    assert not quiet.is_set()
    await play.keeper.end(second, "test")
    await trio.testing.wait_all_tasks_blocked()
    assert quiet.is_set()


async def test_a_restarted_edge_takes_its_sessions_up(
    play: Play, config: ProxyConfig, store: FakeStore, nursery: trio.Nursery
) -> None:
    await play.launch(PHONE, HOME, launch_query(GAME))
    (before,) = play.keeper.table
    fleet = new_fleet(store)
    again = new_play(config, store, fleet, NoTls(), FakeFlows())
    await again.keeper.restore()
    (after,) = again.keeper.table
    assert to_record(after).details == to_record(before).details
    assert again.keeper.table.current_app(PHONE) == GAME
    async with serving(fleet, FakeTunnel(nursery)):
        assert taken(fleet) == 1
        await again.keeper.end(after, "test")
        assert taken(fleet) == 0


async def test_a_session_that_was_written_after_all_is_deleted_once_the_store_is_back(
    play: Play, store: FakeStore
) -> None:
    add = store.add_session

    async def late(record: SessionRecord) -> None:
        await add(record)
        raise StoreError("timeout", "It did not answer in time.")

    store.add_session = late  # type: ignore[method-assign]
    with pytest.raises(StoreError):
        await play.launch(PHONE, HOME, launch_query(DESKTOP))
    assert len(store.sessions) == 1
    await play.keeper.delete_ended()
    assert store.sessions == {}


async def test_a_session_that_ended_while_the_store_was_away_is_deleted_later(
    play: Play, store: FakeStore
) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    (one,) = play.keeper.table
    store.away = True
    await play.keeper.end(one, "test")
    with pytest.raises(StoreError):
        await play.keeper.delete_ended()
    store.away = False
    await play.keeper.delete_ended()
    assert store.sessions == {}


async def test_an_app_that_could_not_be_ended_is_ended_when_its_host_can_be_asked(
    play: Play, host: Host, tunnel: FakeTunnel
) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    tunnel.refuse = DialRefused("host_down", "connection refused")
    await play.cancel(PHONE, launch_query(DESKTOP))
    assert len(play.keeper.table) == 0
    await play.settle()
    assert play._host_apps.owed() == [(PHONE, BACKEND)]
    tunnel.refuse = None
    await play.settle()
    assert (host.paths, play._host_apps.owed()) == (["/launch", "/cancel"], [])


async def test_an_app_that_its_client_has_started_again_is_not_ended(
    play: Play, host: Host, tunnel: FakeTunnel
) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    tunnel.refuse = DialRefused("host_down", "connection refused")
    await play.cancel(PHONE, launch_query(DESKTOP))
    tunnel.refuse = None
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    await play.settle()
    assert (host.paths, play._host_apps.owed()) == (["/launch", "/launch"], [])


async def test_an_app_is_not_ended_while_its_agent_is_away_or_its_client_is_served(
    play: Play, fleet: Fleet, host: Host, autojump_clock: trio.testing.MockClock
) -> None:
    play._host_apps.owe(PHONE, BackendId("gone/wolf"), SessionId("s"))
    play._host_apps.owe(TV, BACKEND, SessionId("t"))
    async with play._client_locks.held(TV, timeout_s=1), trio.open_nursery() as nursery:
        nursery.start_soon(play.settle)
    assert host.paths == []
    assert len(play._host_apps.owed()) == 2


async def test_a_session_that_ends_amid_its_resume_is_ended_at_its_host(
    play: Play, host: Host
) -> None:
    await play.launch(PHONE, HOME, launch_query(DESKTOP))
    (one,) = play.keeper.table
    host.then["/resume"] = lambda: play.keeper.table.remove(one.id, 0)
    assert (
        await refusal(play.resume(PHONE, HOME, launch_query(DESKTOP)))
    ).reason == "session_ended"
    assert host.paths == ["/launch", "/resume", "/cancel"]


async def test_sessions_that_cannot_be_read_are_dropped_and_the_edge_starts(
    config: ProxyConfig, store: FakeStore, nursery: trio.Nursery
) -> None:
    good = to_record(session("good", client="phone"))
    twin = replace(to_record(session("twin", client="phone")), updated_at=good.updated_at)
    damaged = replace(to_record(session("damaged", client="tv")), details=b"\xff")
    other = to_record(session("other", client="tablet"))
    other = replace(other, details=other.details.replace(b"rtsp://", b"http://"))
    store.sessions = {record.id: record for record in (good, twin, damaged, other)}
    fleet = new_fleet(store)
    play = new_play(config, store, fleet, NoTls(), FakeFlows())
    await play.keeper.restore()
    assert [one.id for one in play.keeper.table] == [SessionId("twin")], "the newest one is true"
    assert store.sessions.keys() == {"twin"}
    async with serving(fleet, FakeTunnel(nursery)):
        assert taken(fleet) == 1
