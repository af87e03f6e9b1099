"""Pairing with a simulated host: by both ways to tell the PIN, and all that may go wrong."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path

import pytest
import trio
from simulator_client import PIN, Player, StartHost, host_config, until

from moonlight.errors import AuthenticationFailed
from moonlight.pairing import PairingClient
from moonlight.xml import Answer
from simulator.config import Traps
from simulator.host import HostHandle, run_host

WOLF, NONE = Traps.wolf_2026(), Traps.none()
BOTH = pytest.mark.parametrize("traps", [WOLF, NONE], ids=["wolf", "none"])


async def first_step(player: Player, pairing: PairingClient, answers: list[Answer]) -> None:
    answers.append(await player.pair_step(pairing))


async def pending(host: HostHandle, count: int) -> list[str]:
    await until(lambda: len(host.pending_pairings()) == count)
    return [one.secret for one in host.pending_pairings()]


async def abort_first_step(player: Player) -> None:
    """Begin, and leave while the host waits for the PIN."""
    pairing = PairingClient(player.identity, PIN)
    before = len(player.host.pending_pairings())
    async with trio.open_nursery() as nursery:
        nursery.start_soon(player.pair_step, pairing)
        await pending(player.host, before + 1)
        nursery.cancel_scope.cancel()
    await pending(player.host, before)


@BOTH
async def test_a_client_pairs_and_may_then_ask(start_host: StartHost, traps: Traps) -> None:
    host = await start_host(traps)
    player = Player(host)
    await player.pair()
    assert list(host.clients) == [player.identity.certificate.id]
    assert (await player.get("/applist", secure=True)).status == 200
    assert host.pending_pairings() == ()


async def test_the_pin_can_be_told_over_http(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = Player(host)
    pairing = PairingClient(player.identity, PIN)
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_step, player, pairing, answers)
        (secret,) = await pending(host, 1)
        wrong = await player.post_pin(json.dumps({"pin": PIN, "secret": "0" * 16}).encode())
        assert wrong.status == 404
        told = await player.post_pin(json.dumps({"pin": PIN, "secret": secret}).encode())
        assert (told.status, told.response.body) == (200, b"OK")
    pairing.receive(answers[0])
    assert answers[0].text("paired") == "1"


@pytest.mark.parametrize("body", [b"", b"[]", b'{"pin":"1234"}', b"\xff", b"[" * 10_000])
async def test_a_pin_that_is_no_json_is_refused(start_host: StartHost, body: bytes) -> None:
    assert (await Player(await start_host(WOLF)).post_pin(body)).status == 400


async def test_a_pin_of_letters_is_refused_and_the_pairing_goes_on(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = Player(host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(player.pair_step, PairingClient(player.identity, PIN))
        (secret,) = await pending(host, 1)
        assert not host.confirm_pin(secret, "abcd")
        assert host.confirm_pin(secret, PIN)
        assert not host.confirm_pin("unknown", PIN)


@BOTH
async def test_a_wrong_pin_pairs_nobody_and_the_next_try_works(
    start_host: StartHost, traps: Traps
) -> None:
    host = await start_host(traps)
    player = Player(host)
    with pytest.raises(AuthenticationFailed):
        await player.pair(told="9999")
    assert host.clients == {}
    if traps.unpair_unanswered:
        assert (await player.get("/unpair", secure=False)).raw == b""
    else:
        assert (await player.get("/unpair", secure=False)).status == 200
    await player.pair()


async def test_a_wrong_pin_shows_in_phase_4_as_400(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = Player(host)
    pairing = PairingClient(player.identity, PIN)
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_step, player, pairing, answers)
        (secret,) = await pending(host, 1)
        host.confirm_pin(secret, "9999")
    pairing.receive(answers[0])
    # A client that cannot tell (it would stop by itself) goes on to phase 4.
    pairing.receive(await player.pair_step(pairing))
    third = await player.pair_step(pairing)
    assert third.text("pairingsecret")
    zeros = "00" * (16 + 256)
    refused = await player.get("/pair", ("clientpairingsecret", zeros), secure=False)
    assert (refused.status, refused.answer.text("paired")) == (400, "0")


@BOTH
async def test_a_phase_out_of_order_is_refused_and_ends_the_attempt(
    start_host: StartHost, traps: Traps
) -> None:
    player = Player(await start_host(traps))
    for field in ("clientchallenge", "serverchallengeresp", "clientpairingsecret", "nonsense"):
        refused = await player.get("/pair", (field, "00" * 16), secure=False)
        assert (refused.status, refused.answer.text("paired")) == (400, "0")


async def test_a_broken_introduction_is_refused(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    refused = await Player(host).get(
        "/pair", ("phrase", "getservercert"), ("salt", "00"), ("clientcert", "00"), secure=False
    )
    assert (refused.status, refused.answer.text("paired")) == (400, "0")
    assert host.pending_pairings() == ()


async def test_a_second_pairing_at_once_silently_kills_the_first_of_a_wolf(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    alice, bob = Player(host), Player(host, "bob")
    first, second = PairingClient(alice.identity, PIN), PairingClient(bob.identity, PIN)
    answers: dict[str, list[Answer]] = {"alice": [], "bob": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_step, alice, first, answers["alice"])
        await pending(host, 1)
        nursery.start_soon(first_step, bob, second, answers["bob"])
        for secret in await pending(host, 2):
            host.confirm_pin(secret, PIN)
    second.receive(answers["bob"][0])
    while not second.finished:
        second.receive(await bob.pair_step(second))
    # Phase 1 looked well to the first; it finds out in the next one.
    first.receive(answers["alice"][0])
    with pytest.raises(AuthenticationFailed):
        first.receive(await alice.pair_step(first))
    assert list(host.clients) == [bob.identity.certificate.id]


async def test_the_killed_first_does_not_take_the_second_along(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    alice, bob = Player(host), Player(host, "bob")
    first, second = PairingClient(alice.identity, PIN), PairingClient(bob.identity, PIN)
    answers: dict[str, list[Answer]] = {"alice": [], "bob": []}
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_step, alice, first, answers["alice"])
        (alices_secret,) = await pending(host, 1)
        nursery.start_soon(first_step, bob, second, answers["bob"])
        _, bobs_secret = await pending(host, 2)
        host.confirm_pin(alices_secret, PIN)
        await until(lambda: bool(answers["alice"]))
        first.receive(answers["alice"][0])
        assert (await alice.pair_step(first)).status_code == 400  # while the second still waits
        host.confirm_pin(bobs_secret, PIN)
    second.receive(answers["bob"][0])
    while not second.finished:
        second.receive(await bob.pair_step(second))


async def test_a_better_host_lets_the_second_wait(start_host: StartHost) -> None:
    host = await start_host(NONE)
    alice, bob = Player(host), Player(host, "bob")
    first = PairingClient(alice.identity, PIN)
    answers: list[Answer] = []
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first_step, alice, first, answers)
        (secret,) = await pending(host, 1)
        nursery.start_soon(bob.pair)
        host.confirm_pin(secret, PIN)
        await until(lambda: bool(answers))
        first.receive(answers[0])
        while not first.finished:
            first.receive(await alice.pair_step(first))
    assert len(host.clients) == 2


@BOTH
async def test_clients_at_different_addresses_pair_at_once(
    start_host: StartHost, traps: Traps
) -> None:
    host = await start_host(traps)
    first = PairingClient(Player(host).identity, PIN)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(Player(host).pair_step, first)
        await pending(host, 1)
        await Player(host, "bob", "127.0.0.2").pair()
        nursery.cancel_scope.cancel()
    assert len(host.clients) == 1


async def test_a_wolf_refuses_once_after_an_aborted_pairing(start_host: StartHost) -> None:
    host = await start_host(WOLF)
    player = Player(host)
    await abort_first_step(player)
    assert (await player.pair_step(PairingClient(player.identity, PIN))).status_code == 400
    await player.pair()


async def test_a_wolf_refuses_once_after_a_pairing_left_between_its_phases(
    start_host: StartHost,
) -> None:
    host = await start_host(WOLF)
    player = Player(host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(player.pair_step, PairingClient(player.identity, PIN))
        (secret,) = await pending(host, 1)
        host.confirm_pin(secret, PIN)
    assert (await player.pair_step(PairingClient(player.identity, PIN))).status_code == 400
    await player.pair()


async def test_a_better_host_forgets_an_aborted_pairing(start_host: StartHost) -> None:
    host = await start_host(NONE)
    player = Player(host)
    await abort_first_step(player)
    await player.pair()


async def test_nobody_waits_for_a_pin_for_ever(start_host: StartHost) -> None:
    host = await start_host(WOLF, pin_timeout_s=0.05)
    player = Player(host)
    query = PairingClient(player.identity, PIN).next_query()
    assert (await player.get("/pair", *query.pairs, secure=False)).raw == b""
    assert host.pending_pairings() == ()


async def test_pairings_at_a_time_are_bounded(start_host: StartHost) -> None:
    host = await start_host(WOLF, max_pairings=1)
    alice = Player(host)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(alice.pair_step, PairingClient(alice.identity, PIN))
        await pending(host, 1)
        bob = Player(host, "bob", "127.0.0.2")
        assert (await bob.pair_step(PairingClient(bob.identity, PIN))).status_code == 400
        nursery.cancel_scope.cancel()


async def test_identity_and_clients_outlive_a_crash(tmp_path: Path) -> None:
    config = host_config(tmp_path, WOLF)
    names = []
    for life in ("first", "second"):
        async with trio.open_nursery() as nursery:
            host = await nursery.start(partial(run_host, config))
            player = Player(host)
            if life == "first":
                await player.pair()
            answer = (await player.get("/serverinfo", secure=True)).answer
            names.append((answer.status_code, answer.text("uniqueid")))
            host.crash()
    assert names[0] == names[1]
    assert names[0][0] == 200
