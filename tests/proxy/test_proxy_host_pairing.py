from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest
import trio
import trio.testing
from proxy_fakes import (
    BACKEND,
    FakeStore,
    FakeTunnel,
    identity,
    new_fleet,
    serve_http,
    serving,
)

from backends.errors import StoreError
from backends.model import BackendId
from moonlight.errors import ProtocolError
from moonlight.http import HttpRequest, Query
from moonlight.identity import ClientId, Identity
from moonlight.pairing import (
    PairingServer,
    Phase,
    client_introduction,
    pair_accepted,
    pair_refused,
    phase_of,
)
from moonlight.tls import server_context
from moonlight.xml import Answer
from proxy import host_pairing
from proxy.errors import HostRefused, HostUnavailable
from proxy.fleet import Fleet
from proxy.host_pairing import HostPairing
from proxy.hosts import HostRequest, ask_xml
from revdial.errors import RequestFailed, TunnelClosed

PHONE, TV = ClientId("phone"), ClientId("tv")
PING = HostRequest("/serverinfo", Query(), "test")


class PairingHost:
    """A host that pairs, and the agent that tells it PINs, as one script."""

    def __init__(self, name: str = "host") -> None:
        self.identity: Identity = identity(name)
        self.refuse_first = 0
        self.agent_error: Exception | None = None
        self.agent_is_silent = False
        self.agent_answers_late = False
        self.deaf = False
        self.attempts = 0
        self.confirmed: list[dict[str, Any]] = []
        self.machine: PairingServer | None = None
        self.introduced = trio.Event()
        self.pin_told = trio.Event()

    async def on_request(self, method: str, params: dict[str, Any]) -> dict[str, Any]:
        assert method == "confirm_pin"
        if self.agent_is_silent:
            await trio.sleep_forever()
        await self.introduced.wait()
        self.introduced = trio.Event()
        assert self.machine is not None
        if self.agent_error is not None:
            raise self.agent_error
        self.confirmed.append(params)
        self.machine.provide_pin(params["pin"])
        self.pin_told.set()
        if self.agent_answers_late:
            await trio.sleep(0.5)
            raise RequestFailed("timeout", "the agent's answer got lost")
        return {}

    async def on_stream(self, host: str, service: str, stream: trio.abc.Stream) -> None:
        if service == "https":
            stream = trio.SSLStream(
                stream, server_context(self.identity), server_side=True, https_compatible=True
            )
        await serve_http(stream, self.answer)

    async def answer(self, request: HttpRequest) -> tuple[int, bytes]:
        if request.path != "/pair":
            return 200, Answer.ok().encode()
        if self.deaf:
            await trio.sleep_forever()
        try:
            return 200, (await self.step(request)).encode()
        except ProtocolError:
            return 400, pair_refused().encode()

    async def step(self, request: HttpRequest) -> Answer:
        phase = phase_of(request.query)
        if phase is Phase.PAIR_CHALLENGE:
            return pair_accepted()
        if phase is Phase.GET_SERVER_CERT:
            self.attempts += 1
            if self.attempts <= self.refuse_first:
                return pair_refused()
            self.pin_told = trio.Event()
            self.machine = PairingServer(self.identity)
            self.machine.begin(*client_introduction(request.query))
            self.introduced.set()
            await self.pin_told.wait()
        assert self.machine is not None
        if self.agent_answers_late and phase is not Phase.GET_SERVER_CERT:
            await trio.sleep(1)
        return self.machine.handle(request.query)


@pytest.fixture
def host() -> PairingHost:
    return PairingHost()


@pytest.fixture
def store() -> FakeStore:
    store = FakeStore()
    for client in (PHONE, TV):
        store.know(b"", client)
    return store


@pytest.fixture
async def tunnel(nursery: trio.Nursery, host: PairingHost) -> FakeTunnel:
    return FakeTunnel(nursery, on_stream=host.on_stream, on_request=host.on_request)


@pytest.fixture
async def fleet(store: FakeStore, tunnel: FakeTunnel) -> AsyncIterator[Fleet]:
    fleet = new_fleet(store)
    async with serving(fleet, tunnel):
        yield fleet


@pytest.fixture
async def pairing(store: FakeStore, fleet: Fleet) -> HostPairing:
    return HostPairing(store, fleet)


async def test_a_client_is_paired_on_first_use_and_then_known(
    pairing: HostPairing, fleet: Fleet, store: FakeStore, host: PairingHost
) -> None:
    assert not pairing.knows(PHONE, BACKEND)
    context = await pairing.context_for(PHONE, BACKEND)
    assert pairing.knows(PHONE, BACKEND)
    assert (await ask_xml(fleet, BACKEND, PING, context)).status_code == 200
    assert store.pairings[PHONE, BACKEND].host_certificate_der == host.identity.certificate.der
    assert await pairing.context_for(PHONE, BACKEND) is context
    assert host.attempts == 1
    assert host.confirmed[0]["host"] == "wolf"


async def test_the_host_sees_a_pairing_from_one_origin_that_names_no_other_use(
    pairing: HostPairing, tunnel: FakeTunnel, host: PairingHost
) -> None:
    await pairing.context_for(PHONE, BACKEND)
    origins = {origin for _, _, origin, _ in tunnel.dials}
    assert origins == {host.confirmed[0]["origin"]}
    assert [service for _, service, _, _ in tunnel.dials] == ["http"] * 4 + ["https"]


async def test_after_a_restart_the_pairing_is_found_in_the_store(
    pairing: HostPairing, fleet: Fleet, store: FakeStore, host: PairingHost
) -> None:
    await pairing.context_for(PHONE, BACKEND)
    context = await HostPairing(store, fleet).context_for(PHONE, BACKEND)
    assert (await ask_xml(fleet, BACKEND, PING, context)).status_code == 200
    assert host.attempts == 1


async def test_each_client_has_an_identity_of_its_own_that_stays(
    pairing: HostPairing, store: FakeStore
) -> None:
    await pairing.context_for(PHONE, BACKEND)
    first = store.identities[PHONE]
    await pairing.context_for(TV, BACKEND)
    assert store.identities[TV].certificate_pem != first.certificate_pem
    await pairing.forget(PHONE, BACKEND)
    await pairing.context_for(PHONE, BACKEND)
    assert store.identities[PHONE] == first


async def test_a_host_that_refuses_once_is_asked_again(
    pairing: HostPairing, host: PairingHost, tunnel: FakeTunnel
) -> None:
    host.refuse_first = 1
    await pairing.context_for(PHONE, BACKEND)
    assert host.attempts == 2
    assert len({origin for _, _, origin, _ in tunnel.dials}) == 2


async def test_a_host_that_refuses_always_is_believed(
    pairing: HostPairing, host: PairingHost, store: FakeStore
) -> None:
    host.refuse_first = 99
    with pytest.raises(HostRefused) as caught:
        await pairing.context_for(PHONE, BACKEND)
    assert caught.value.reason == "host_refused_pairing"
    assert host.attempts == host_pairing.attempts
    assert not store.pairings
    assert len(pairing._locks) == 0


@pytest.mark.parametrize(
    "error", [RequestFailed("no_such_request", "nobody asked"), TunnelClosed()]
)
async def test_an_agent_that_cannot_confirm_is_told_as_one_error_of_one_kind(
    pairing: HostPairing, host: PairingHost, error: RequestFailed | TunnelClosed
) -> None:
    host.agent_error = error
    with pytest.raises(HostUnavailable) as caught:
        await pairing.context_for(PHONE, BACKEND)
    assert caught.value.reason == error.reason
    assert host.attempts == 1


async def test_refusal_by_agent_and_host_in_one_moment_is_still_one_error(
    pairing: HostPairing, host: PairingHost, monkeypatch: pytest.MonkeyPatch
) -> None:
    both = trio.Event()

    async def refuse_both(*_: object) -> None:
        both.set()
        raise HostUnavailable("agent", "agent")

    async def step(*_: object) -> None:
        await both.wait()
        raise ProtocolError("refused", "host")

    monkeypatch.setattr(pairing, "_confirm", refuse_both)
    monkeypatch.setattr(pairing, "_step", step)
    with pytest.raises((HostUnavailable, HostRefused)):
        await pairing.context_for(PHONE, BACKEND)


async def test_an_agents_late_failure_does_not_spoil_a_pairing_that_goes_well(
    pairing: HostPairing, host: PairingHost, autojump_clock: trio.testing.MockClock
) -> None:
    host.agent_answers_late = True
    await pairing.context_for(PHONE, BACKEND)
    assert host.attempts == 1


async def test_a_host_that_never_answers_is_given_up_in_time(
    pairing: HostPairing, host: PairingHost, autojump_clock: trio.testing.MockClock
) -> None:
    host.deaf = host.agent_is_silent = True
    # The autojumping clock does not wait for the thread in which keys are made.
    await pairing._identity(PHONE)
    begun = trio.current_time()
    with pytest.raises(HostUnavailable) as caught:
        await pairing.context_for(PHONE, BACKEND)
    assert caught.value.reason in {"host_timeout", "host_pairing_timeout"}
    assert trio.current_time() - begun == host_pairing.pairing_timeout_s


async def test_who_waits_for_the_pairings_of_others_is_told_in_time(
    pairing: HostPairing, host: PairingHost, autojump_clock: trio.testing.MockClock
) -> None:
    host.deaf = host.agent_is_silent = True
    for client in (PHONE, TV):
        await pairing._identity(client)
    begun = trio.current_time()
    reasons: list[str] = []

    async def use(client: ClientId) -> None:
        with pytest.raises(HostUnavailable) as caught:
            await pairing.context_for(client, BACKEND)
        reasons.append(caught.value.reason)

    async with trio.open_nursery() as clients:
        for client in (PHONE, TV):
            clients.start_soon(use, client)
    assert trio.current_time() - begun <= 2 * host_pairing.pairing_timeout_s
    assert len(reasons) == 2


async def test_a_paired_client_does_not_wait_for_the_pairing_of_another(
    pairing: HostPairing, fleet: Fleet, store: FakeStore, host: PairingHost, nursery: trio.Nursery
) -> None:
    await pairing.context_for(PHONE, BACKEND)
    await pairing._identity(TV)
    host.deaf = host.agent_is_silent = True
    nursery.start_soon(pairing.context_for, TV, BACKEND)
    await trio.testing.wait_all_tasks_blocked()
    with trio.fail_after(5):
        await HostPairing.context_for(pairing, PHONE, BACKEND)
        pairing.forget_client(PHONE)
        await pairing.context_for(PHONE, BACKEND)
    nursery.cancel_scope.cancel()


async def test_many_requests_of_a_new_client_pair_it_once(
    pairing: HostPairing, host: PairingHost
) -> None:
    async with trio.open_nursery() as requests:
        for _ in range(5):
            requests.start_soon(pairing.context_for, PHONE, BACKEND)
    assert host.attempts == 1


async def test_a_pairing_that_the_host_forgot_is_made_anew(
    pairing: HostPairing, host: PairingHost
) -> None:
    await pairing.context_for(PHONE, BACKEND)
    await pairing.forget(PHONE, BACKEND)
    await pairing.context_for(PHONE, BACKEND)
    assert host.attempts == 2


async def test_a_client_that_is_not_paired_any_more_has_no_context(pairing: HostPairing) -> None:
    await pairing.context_for(PHONE, BACKEND)
    await pairing.context_for(TV, BACKEND)
    pairing.forget_client(PHONE)
    assert not pairing.knows(PHONE, BACKEND)
    assert pairing.knows(TV, BACKEND)


async def test_contexts_are_bounded(pairing: HostPairing, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_pairing, "max_contexts", 1)
    await pairing.context_for(PHONE, BACKEND)
    await pairing.context_for(TV, BACKEND)
    assert not pairing.knows(PHONE, BACKEND)
    assert pairing.knows(TV, BACKEND)


@pytest.mark.parametrize(
    "method", ["get_host_identity", "add_host_identity", "get_pairing", "put_pairing"]
)
async def test_a_store_that_is_away_is_a_store_error_and_leaves_nothing(
    pairing: HostPairing, store: FakeStore, method: str
) -> None:
    store.failing = {method}
    with pytest.raises(StoreError):
        await pairing.context_for(PHONE, BACKEND)
    assert not pairing.knows(PHONE, BACKEND)
    assert len(pairing._locks) == 0


async def test_a_backend_without_its_agent_is_unavailable(pairing: HostPairing) -> None:
    with pytest.raises(HostUnavailable) as caught:
        await pairing.context_for(PHONE, BackendId("agent-9/wolf"))
    assert caught.value.reason == "agent_offline"
