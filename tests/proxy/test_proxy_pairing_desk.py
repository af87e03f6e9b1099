from __future__ import annotations

from collections.abc import Awaitable, Callable

import pytest
import trio
import trio.testing
from proxy_fakes import identity

from moonlight.errors import AuthenticationFailed, Malformed, ProtocolError
from moonlight.http import Query
from moonlight.identity import Identity
from moonlight.pairing import PairingClient, PairingOutcome, pair_refused
from moonlight.xml import Answer
from proxy import pairing_desk
from proxy.errors import Refused
from proxy.pairing_desk import Attempt, AttemptId, PairingDesk

HOME = "192.0.2.1"
UNIQUE_ID = Query.of(("uniqueid", "0123456789ABCDEF"))


@pytest.fixture
def desk() -> PairingDesk:
    return new_desk()


def new_desk(*, most: int = 8, most_per_address: int = 4) -> PairingDesk:
    return PairingDesk(
        identity("edge"),
        max_pending=most,
        max_pending_per_address=most_per_address,
        pin_timeout_s=300,
    )


class Device:
    """A Moonlight client that pairs, as the desk sees it."""

    def __init__(self, desk: PairingDesk, name: str, pin: str, address: str = HOME) -> None:
        self.desk = desk
        self.identity: Identity = identity(name)
        self.address = address
        self.machine = PairingClient(self.identity, pin)
        self.outcome = ""

    async def introduce(self) -> None:
        query = UNIQUE_ID + self.machine.next_query()
        self.machine.receive(await self.desk.introduce(self.address, query))

    def step(self) -> Attempt:
        query = UNIQUE_ID + self.machine.next_query()
        answer, attempt = self.desk.go_on(self.address, query)
        if attempt.machine.outcome is not None:
            self.desk.finish(attempt)
        self.machine.receive(answer)
        return attempt

    async def pair(self) -> None:
        """Do all that a client does, its giving up included."""
        try:
            await self.introduce()
            while not self.machine.over_https:
                self.step()
                await trio.lowlevel.checkpoint()
        except ProtocolError as error:
            self.desk.give_up(self.address, UNIQUE_ID)
            self.outcome = error.reason
        except Refused as error:
            self.outcome = error.reason
        else:
            self.outcome = "paired"


async def waiting(desk: PairingDesk, number: int = 1) -> list[Attempt]:
    await trio.testing.wait_all_tasks_blocked()
    attempts = desk.pending()
    assert len(attempts) == number
    return attempts


def nothing_left(desk: PairingDesk) -> bool:
    return not desk._pending and not desk._past_pin and not desk.pending()


async def in_background(
    nursery: trio.Nursery, function: Callable[[], Awaitable[object]]
) -> trio.CancelScope:
    """Start what can be hung up on."""
    scope = trio.CancelScope()

    async def run() -> None:
        with scope:
            await function()

    nursery.start_soon(run)
    await trio.testing.wait_all_tasks_blocked()
    return scope


async def test_a_device_is_paired_with_the_pin_that_it_shows(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.pair)
    (attempt,) = await waiting(desk)
    assert attempt.address == HOME
    assert attempt.device == "roth"
    assert await desk.confirm(attempt.id, "1234") is PairingOutcome.PAIRED
    await trio.testing.wait_all_tasks_blocked()
    assert device.outcome == "paired"
    assert attempt.machine.client == device.identity.certificate
    assert nothing_left(desk)


async def test_a_wrong_pin_is_told_to_who_told_it_once_the_client_has_given_up(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.pair)
    (attempt,) = await waiting(desk)
    assert await desk.confirm(attempt.id, "4321") is PairingOutcome.WRONG_PIN
    assert device.outcome == "wrong_pin"
    assert nothing_left(desk)


async def test_two_devices_behind_one_address_and_unique_id_are_both_paired(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    devices = [Device(desk, "phone", "1111"), Device(desk, "tv", "2222")]
    for device in devices:
        nursery.start_soon(device.pair)
    pins = {
        device.identity.certificate.id: pin
        for device, pin in zip(devices, ("1111", "2222"), strict=True)
    }
    outcomes: list[PairingOutcome] = []

    async def confirm(attempt: Attempt) -> None:
        pin = pins[attempt.machine.client.id]
        outcomes.append(await desk.confirm(attempt.id, pin))

    async with trio.open_nursery() as confirming:
        for attempt in await waiting(desk, 2):
            confirming.start_soon(confirm, attempt)
    assert outcomes == [PairingOutcome.PAIRED] * 2
    assert [device.outcome for device in devices] == ["paired"] * 2
    assert nothing_left(desk)


async def test_the_pin_of_another_device_pairs_nobody(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    phone, tv = Device(desk, "phone", "1111"), Device(desk, "tv", "2222")
    nursery.start_soon(phone.pair)
    (first,) = await waiting(desk)
    nursery.start_soon(tv.pair)
    await waiting(desk, 2)
    assert await desk.confirm(first.id, "2222") is PairingOutcome.WRONG_PIN
    assert phone.outcome == "wrong_pin"
    assert tv.outcome == ""
    (second,) = await waiting(desk)
    assert await desk.confirm(second.id, "2222") is PairingOutcome.PAIRED
    await trio.testing.wait_all_tasks_blocked()
    assert tv.outcome == "paired"


async def test_a_device_that_hangs_up_is_forgotten_at_once(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    call = await in_background(nursery, Device(desk, "phone", "1234").introduce)
    (attempt,) = await waiting(desk)
    call.cancel()
    await waiting(desk, 0)
    with pytest.raises(Refused) as caught:
        await desk.confirm(attempt.id, "1234")
    assert (caught.value.status, caught.value.reason) == (404, "no_such_pairing")
    assert nothing_left(desk)


async def test_a_pin_that_nobody_tells_ends_the_wait(
    desk: PairingDesk, autojump_clock: trio.testing.MockClock
) -> None:
    device = Device(desk, "phone", "1234")
    await device.pair()
    assert device.outcome == "pin_timeout"
    assert trio.current_time() == 300
    assert nothing_left(desk)


async def test_a_device_that_stops_after_its_pin_is_forgotten(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(Device(desk, "phone", "1234").introduce)
    (attempt,) = await waiting(desk)
    with pytest.raises(Refused) as caught:
        await desk.confirm(attempt.id, "1234")
    assert caught.value.reason == "pairing_not_finished"
    assert trio.current_time() == pairing_desk.phases_timeout_s
    assert nothing_left(desk)


async def test_a_stuck_device_holds_the_next_one_up_only_for_its_time(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    stuck, tv = Device(desk, "phone", "1111"), Device(desk, "tv", "2222")
    nursery.start_soon(stuck.introduce)
    (first,) = await waiting(desk)
    nursery.start_soon(tv.pair)
    second = next(attempt for attempt in await waiting(desk, 2) if attempt is not first)

    async def confirm_stuck() -> None:
        with pytest.raises(Refused, match="did not finish"):
            await desk.confirm(first.id, "1111")

    nursery.start_soon(confirm_stuck)
    await trio.testing.wait_all_tasks_blocked()
    assert await desk.confirm(second.id, "2222") is PairingOutcome.PAIRED
    assert trio.current_time() == pairing_desk.phases_timeout_s


async def test_who_waits_to_tell_a_pin_does_not_wait_for_ever(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(Device(desk, "phone", "1111").pair)
    (attempt,) = await waiting(desk)
    stuck = attempt.__class__(
        AttemptId("x"), HOME, attempt.unique_id, "", attempt.machine, attempt.asked_at
    )
    desk._past_pin[attempt.key] = stuck
    with pytest.raises(Refused) as caught:
        await desk.confirm(attempt.id, "1111")
    assert caught.value.status == 504
    assert trio.current_time() == 2 * pairing_desk.phases_timeout_s
    assert desk.pending() == [attempt]
    assert desk.refuse(attempt.id)


async def test_a_device_that_gives_up_while_its_pin_waits_for_another(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    nursery.start_soon(Device(desk, "phone", "1111").introduce)
    (first,) = await waiting(desk)
    call = await in_background(nursery, Device(desk, "tv", "2222").introduce)
    second = next(attempt for attempt in await waiting(desk, 2) if attempt is not first)
    reasons = []

    async def confirm(attempt: Attempt, pin: str) -> None:
        with pytest.raises(Refused) as caught:
            await desk.confirm(attempt.id, pin)
        reasons.append(caught.value.reason)

    async with trio.open_nursery() as confirming:
        confirming.start_soon(confirm, first, "1111")
        await trio.testing.wait_all_tasks_blocked()
        confirming.start_soon(confirm, second, "2222")
        await trio.testing.wait_all_tasks_blocked()
        call.cancel()
    assert reasons == ["pairing_not_finished", "pairing_gone"]


async def test_a_pin_is_told_once(desk: PairingDesk, nursery: trio.Nursery) -> None:
    nursery.start_soon(Device(desk, "phone", "1234").introduce)
    (attempt,) = await waiting(desk)
    confirmation = await in_background(nursery, lambda: desk.confirm(attempt.id, "1234"))
    with pytest.raises(Refused, match="No device waits"):
        await desk.confirm(attempt.id, "1234")
    confirmation.cancel()
    await trio.testing.wait_all_tasks_blocked()
    assert nothing_left(desk)


@pytest.mark.parametrize("pin", ["", "12 34", "abcd", "1" * 17, "١٢٣٤"])
async def test_what_cannot_be_a_pin_is_refused_and_the_device_waits_on(
    desk: PairingDesk, nursery: trio.Nursery, pin: str
) -> None:
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.pair)
    (attempt,) = await waiting(desk)
    with pytest.raises(Malformed) as caught:
        await desk.confirm(attempt.id, pin)
    assert not pin or pin not in str(caught.value)
    assert desk.pending() == [attempt]
    assert await desk.confirm(attempt.id, "1234") is PairingOutcome.PAIRED


async def test_a_refused_device_hears_of_it_at_once(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.pair)
    (attempt,) = await waiting(desk)
    assert desk.refuse(attempt.id)
    await trio.testing.wait_all_tasks_blocked()
    assert device.outcome == "pairing_refused"
    assert trio.current_time() == 0
    assert not desk.refuse(attempt.id)
    assert nothing_left(desk)


async def test_the_same_device_asking_anew_takes_its_own_place(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    former = Device(desk, "phone", "1111")
    nursery.start_soon(former.pair)
    await waiting(desk)
    device = Device(desk, "phone", "2222")
    nursery.start_soon(device.pair)
    (attempt,) = await waiting(desk)
    assert former.outcome == "pairing_refused", "the former request must not be held open"
    assert trio.current_time() == 0
    assert await desk.confirm(attempt.id, "2222") is PairingOutcome.PAIRED
    await trio.testing.wait_all_tasks_blocked()
    assert device.outcome == "paired"


async def test_a_device_asking_anew_after_its_pin_ends_the_former_attempt(
    desk: PairingDesk, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    former = Device(desk, "phone", "1111")
    nursery.start_soon(former.introduce)
    (attempt,) = await waiting(desk)
    nursery.start_soon(in_background, nursery, Device(desk, "phone", "2222").pair)
    with pytest.raises(Refused, match="did not finish"):
        await desk.confirm(attempt.id, "1111")
    (second,) = await waiting(desk)
    assert second is not attempt
    assert trio.current_time() == 0
    assert desk.refuse(second.id)


async def test_the_same_certificate_from_another_address_replaces_nothing(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    for address in (HOME, "198.51.100.1"):
        nursery.start_soon(Device(desk, "phone", "1111", address).pair)
    for attempt in await waiting(desk, 2):
        desk.refuse(attempt.id)


async def test_an_address_can_have_only_so_many_waiting(nursery: trio.Nursery) -> None:
    desk = new_desk(most=8, most_per_address=2)
    for name in ("phone", "tv"):
        nursery.start_soon(Device(desk, name, "1").pair)
    await waiting(desk, 2)
    third = Device(desk, "tablet", "1")
    await third.pair()
    assert third.outcome == "too_many_pairings"
    elsewhere = Device(desk, "tablet", "1", "198.51.100.1")
    nursery.start_soon(elsewhere.pair)
    for attempt in await waiting(desk, 3):
        desk.refuse(attempt.id)


async def test_only_so_many_wait_in_all(nursery: trio.Nursery) -> None:
    desk = new_desk(most=2, most_per_address=2)
    for number, name in enumerate(("phone", "tv")):
        nursery.start_soon(Device(desk, name, "1", f"192.0.2.{number}").pair)
    await waiting(desk, 2)
    third = Device(desk, "tablet", "1", "198.51.100.1")
    await third.pair()
    assert third.outcome == "too_many_pairings"
    for attempt in desk.pending():
        desk.refuse(attempt.id)


async def test_one_ipv6_network_counts_as_one_address(nursery: trio.Nursery) -> None:
    desk = new_desk(most=8, most_per_address=2)
    for number, name in enumerate(("phone", "tv")):
        nursery.start_soon(Device(desk, name, "1", f"2001:db8:0:1::{number}").pair)
    await waiting(desk, 2)
    third = Device(desk, "tablet", "1", "2001:db8:0:1:ffff::1")
    await third.pair()
    assert third.outcome == "too_many_pairings"
    for attempt in desk.pending():
        desk.refuse(attempt.id)


async def test_a_step_without_an_attempt_is_refused(desk: PairingDesk) -> None:
    with pytest.raises(Refused) as caught:
        desk.go_on(HOME, UNIQUE_ID + Query.of(("clientchallenge", "00" * 16)))
    assert caught.value.status == 400


async def test_a_step_out_of_order_ends_the_attempt(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.introduce)
    (attempt,) = await waiting(desk)

    async def disturb() -> None:
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(ProtocolError):
            desk.go_on(HOME, UNIQUE_ID + Query.of(("clientpairingsecret", "00" * 300)))

    nursery.start_soon(disturb)
    assert await desk.confirm(attempt.id, "1234") is PairingOutcome.BROKEN_OFF
    assert nothing_left(desk)


@pytest.mark.parametrize(
    "query",
    [
        Query.of(("phrase", "getservercert")),
        Query.of(("phrase", "getservercert"), ("salt", "00" * 16), ("clientcert", "00" * 100)),
        Query.of(("phrase", "getservercert"), ("salt", "zz" * 16), ("clientcert", "00")),
    ],
    ids=["nothing", "no certificate", "no hex"],
)
async def test_a_malformed_introduction_leaves_nothing(desk: PairingDesk, query: Query) -> None:
    with pytest.raises(ProtocolError):
        await desk.introduce(HOME, query)
    assert nothing_left(desk)


async def test_giving_up_without_an_attempt_does_nothing(desk: PairingDesk) -> None:
    desk.give_up(HOME, UNIQUE_ID)
    desk.give_up(HOME, Query())


async def test_giving_up_early_is_not_called_a_wrong_pin(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    nursery.start_soon(Device(desk, "phone", "1234").introduce)
    (attempt,) = await waiting(desk)

    async def give_up() -> None:
        await trio.testing.wait_all_tasks_blocked()
        desk.give_up(HOME, UNIQUE_ID)

    nursery.start_soon(give_up)
    with pytest.raises(Refused, match="did not finish"):
        await desk.confirm(attempt.id, "1234")
    assert nothing_left(desk)


async def test_a_client_that_proves_another_pin_at_the_last_step_is_told_so(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    """A client that skips its own check of the PIN finds the edge's."""
    device = Device(desk, "phone", "1234")
    nursery.start_soon(device.introduce)
    (attempt,) = await waiting(desk)
    answers: list[Answer] = []

    async def go_on_regardless() -> None:
        await trio.testing.wait_all_tasks_blocked()
        device.step()
        device.step()
        query = UNIQUE_ID + Query.of(("clientpairingsecret", "00" * 272))
        answer, last = desk.go_on(HOME, query)
        answers.append(answer)
        desk.finish(last)

    nursery.start_soon(go_on_regardless)
    assert await desk.confirm(attempt.id, "1234") is PairingOutcome.WRONG_PIN
    assert answers == [pair_refused("The PIN was wrong.")]


async def test_what_a_client_calls_itself_cannot_disturb_a_terminal(
    desk: PairingDesk, nursery: trio.Nursery
) -> None:
    device = Device(desk, "phone", "1234")
    query = Query.of(("devicename", "\x1b[2J" + "x" * 100)) + device.machine.next_query()
    await in_background(nursery, lambda: desk.introduce(HOME, query))
    (attempt,) = await waiting(desk)
    assert attempt.device.startswith("?[2J")
    assert len(attempt.device) <= 40
    assert "salt" not in repr(attempt)
    nursery.cancel_scope.cancel()


def test_the_client_of_these_tests_does_notice_a_wrong_pin() -> None:
    with pytest.raises(AuthenticationFailed):
        PairingClient(identity("phone"), "1").receive(pair_refused())
