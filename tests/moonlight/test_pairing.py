from __future__ import annotations

import hashlib
import re
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import cast

import pytest
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from hypothesis import given, settings
from hypothesis import strategies as st
from moonlight_identities import certificate, der_of, ec_key, identity, serial_zero
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import AuthenticationFailed, Malformed, OutOfOrder, ProtocolError, TooLarge
from moonlight.http import Query
from moonlight.identity import Identity, PeerCertificate
from moonlight.pairing import (
    PairingClient,
    PairingOutcome,
    PairingServer,
    PairingState,
    Phase,
    client_introduction,
    pair_accepted,
    pair_refused,
    phase_of,
)
from moonlight.xml import Answer, Element, text_element

PIN = "1234"
PHASES = list(Phase)

Tamper = Callable[[Answer], Answer]


def server_for(query: Query, pin: str = PIN) -> PairingServer:
    server = PairingServer(identity("host"))
    server.begin(*client_introduction(query))
    server.provide_pin(pin)
    return server


def run_until(
    last: Phase, client_identity: Identity | None = None
) -> tuple[PairingServer, PairingClient, Answer]:
    """Pair up to and including the host's answer to `last`, which the client has not seen."""
    client = PairingClient(client_identity or identity("client"), PIN)
    server = server_for(client.next_query())
    for phase in PHASES:
        answer = server.handle(client.next_query())
        if phase is last:
            return server, client, answer
        client.receive(answer)
    raise AssertionError


def replaced_text(answer: Answer, name: str, text: str) -> Answer:
    return replace(
        answer,
        elements=tuple(
            text_element(name, text) if element.name == name else element
            for element in answer.elements
        ),
    )


def flipped(text: str, place: int) -> str:
    digit = format(int(text[place], 16) ^ 1, "x")
    return text[:place] + digit + text[place + 1 :]


@pytest.mark.parametrize("client_identity", [identity("client"), serial_zero()])
@pytest.mark.parametrize("pin", ["1234", "0000", "7", "1234567890123456"])
def test_both_roles_pair_with_each_other(client_identity: Identity, pin: str) -> None:
    client = PairingClient(client_identity, pin)
    server = server_for(client.next_query(), pin)
    seen = []
    while not client.finished:
        query = client.next_query()
        seen.append((phase_of(query), client.over_https))
        client.receive(Answer.parse(server.handle(query).encode()))
    assert seen == [(phase, phase is Phase.PAIR_CHALLENGE) for phase in PHASES]
    assert server.outcome == "paired"
    assert server.state is PairingState.PAIRED
    assert server.client == client_identity.certificate
    assert client.server_certificate == identity("host").certificate


def test_the_state_tells_what_is_waited_for() -> None:
    client = PairingClient(identity("client"), PIN)
    server = PairingServer(identity("host"))
    states = [server.state]
    server.begin(*client_introduction(client.next_query()))
    states.append(server.state)
    server.provide_pin(PIN)
    states.append(server.state)
    while not client.finished:
        client.receive(server.handle(client.next_query()))
        states.append(server.state)
    assert states == [*list(PairingState)[:7], PairingState.PAIRED]


def test_queries_are_what_moonlight_sends() -> None:
    client = PairingClient(identity("client"), PIN)
    query = client.next_query().encode()
    assert re.fullmatch(
        r"devicename=roth&updateState=1&phrase=getservercert&salt=[0-9a-f]{32}&clientcert=2d2d.*",
        query,
    )
    assert client.next_query().encode() == query


def test_a_wrong_pin_is_seen_by_the_client() -> None:
    client = PairingClient(identity("client"), PIN)
    server = server_for(client.next_query(), "1235")
    for _ in range(2):
        client.receive(server.handle(client.next_query()))
    answer = server.handle(client.next_query())
    with pytest.raises(AuthenticationFailed) as caught:
        client.receive(answer)
    assert caught.value.reason == "wrong_pin"
    assert not client.finished
    with pytest.raises(OutOfOrder):
        client.next_query()
    with pytest.raises(OutOfOrder):
        client.receive(answer)
    with pytest.raises(OutOfOrder):
        assert client.server_certificate


def test_a_wrong_pin_is_seen_by_the_host_as_well() -> None:
    """A client that goes on in spite of it is refused in the step that judges."""
    client = PairingClient(identity("client"), PIN)
    server = server_for(client.next_query(), "1235")
    for _ in range(2):
        client.receive(server.handle(client.next_query()))
    server.handle(client.next_query())
    answer = server.handle(judged_query(identity("client")))
    assert answer == pair_refused("The PIN was wrong.")
    assert answer.status_code == 400
    assert answer.text("paired") == "0"
    assert server.outcome is PairingOutcome.WRONG_PIN
    assert server.state is PairingState.FAILED


def judged_query(signer: Identity, secret: bytes = b"s" * 16) -> Query:
    return Query.of(("clientpairingsecret", (secret + signer.sign(secret)).hex()))


def known_random(answers: list[bytes]) -> Callable[[int], bytes]:
    """Random bytes that are none, each of the length asked for."""
    left = iter(answers)

    def draw(count: int) -> bytes:
        drawn = next(left)
        assert len(drawn) == count
        return drawn

    return draw


def test_a_client_that_signs_with_another_key_is_refused() -> None:
    secret = b"s" * 16
    random_bytes = known_random([b"a" * 16, b"c" * 16, secret])
    client = PairingClient(identity("client"), PIN, random_bytes=random_bytes)
    server = server_for(client.next_query())
    for _ in range(3):
        client.receive(server.handle(client.next_query()))
    answer = server.handle(judged_query(identity("host"), secret))
    assert answer.text("paired") == "0"
    assert server.outcome is PairingOutcome.WRONG_SIGNATURE


def test_a_client_whose_key_is_not_rsa_is_refused() -> None:
    elliptic = PeerCertificate(der_of(certificate(ec_key())))
    client = PairingClient(replace(identity("client"), certificate=elliptic), PIN)
    server = server_for(client.next_query())
    for _ in range(3):
        client.receive(server.handle(client.next_query()))
    assert server.handle(client.next_query()).text("paired") == "0"
    assert server.outcome is PairingOutcome.WRONG_SIGNATURE


@pytest.mark.parametrize("shown", PHASES)
@pytest.mark.parametrize("due", PHASES)
def test_only_the_step_that_is_due_is_answered(due: Phase, shown: Phase) -> None:
    if due is shown:
        return
    queries: dict[Phase, Query] = {}
    client = PairingClient(identity("client"), PIN)
    server = server_for(client.next_query())
    for phase in PHASES:
        queries[phase] = client.next_query()
        client.receive(server.handle(queries[phase]))
    server, _, _ = (
        run_until(PHASES[PHASES.index(due) - 1])
        if due is not PHASES[0]
        else (
            server_for(queries[PHASES[0]]),
            None,
            None,
        )
    )
    outcome = server.outcome
    with pytest.raises(OutOfOrder):
        server.handle(queries[shown])
    if outcome is None:
        assert server.state is PairingState.FAILED
        assert server.outcome is PairingOutcome.BROKEN_OFF
        with pytest.raises(OutOfOrder):
            server.handle(queries[due])
    else:
        # what has been judged stays judged, whatever comes in later
        assert server.outcome is PairingOutcome.PAIRED


def test_nothing_is_answered_before_the_pin_is_known() -> None:
    query = PairingClient(identity("client"), PIN).next_query()
    server = PairingServer(identity("host"))
    with pytest.raises(OutOfOrder):
        assert server.client
    with pytest.raises(OutOfOrder):
        server.provide_pin(PIN)
    server.begin(*client_introduction(query))
    with pytest.raises(OutOfOrder):
        server.begin(*client_introduction(query))
    with pytest.raises(OutOfOrder):
        server.handle(query)


def test_a_pin_is_provided_once() -> None:
    server = server_for(PairingClient(identity("client"), PIN).next_query())
    with pytest.raises(OutOfOrder):
        server.provide_pin(PIN)


@pytest.mark.parametrize(
    "pin", ["", "12a4", " 1234", "1234\n", "-123", "12345678901234567", "١٢٣٤"]
)
def test_a_pin_that_cannot_be_one_does_not_end_the_attempt(pin: str) -> None:
    server = PairingServer(identity("host"))
    server.begin(*client_introduction(PairingClient(identity("client"), PIN).next_query()))
    with pytest.raises(Malformed) as caught:
        server.provide_pin(pin)
    assert caught.value.reason == "bad_pin"
    assert not pin or pin not in str(caught.value)
    server.provide_pin(PIN)
    with pytest.raises(Malformed):
        PairingClient(identity("client"), pin)


@pytest.mark.parametrize(
    "other",
    [PairingClient(identity("client"), PIN), PairingClient(identity("edge"), PIN)],
    ids=["another salt", "another certificate"],
)
def test_another_client_does_not_get_into_an_attempt(other: PairingClient) -> None:
    client = PairingClient(identity("client"), PIN, random_bytes=lambda count: b"a" * count)
    server = server_for(client.next_query())
    with pytest.raises(OutOfOrder, match="Another client"):
        server.handle(other.next_query())


def test_another_certificate_with_the_same_salt_does_not_either() -> None:
    def same(count: int) -> bytes:
        return b"a" * count

    client = PairingClient(identity("client"), PIN, random_bytes=same)
    other = PairingClient(identity("edge"), PIN, random_bytes=same)
    with pytest.raises(OutOfOrder, match="Another client"):
        server_for(client.next_query()).handle(other.next_query())


SIZES = {
    Phase.CLIENT_CHALLENGE: ("clientchallenge", 16),
    Phase.SERVER_CHALLENGE_RESPONSE: ("serverchallengeresp", 32),
    Phase.CLIENT_PAIRING_SECRET: ("clientpairingsecret", 16 + 256),
}


@pytest.mark.parametrize("phase", list(SIZES))
@pytest.mark.parametrize("text", ["", "0", "00" * 15, "zz" * 16, "00 " * 16, "00" * 1041, "ü" * 32])
def test_a_wrong_size_or_digit_ends_the_attempt(phase: Phase, text: str) -> None:
    server, _, _ = run_until(PHASES[PHASES.index(phase) - 1])
    with pytest.raises(Malformed) as caught:
        server.handle(Query.of((phase.value, text)))
    assert SIZES[phase][0] in str(caught.value)
    assert server.state is PairingState.FAILED


@pytest.mark.parametrize("phase", list(SIZES))
@pytest.mark.parametrize("place", [0, 20, -1])
def test_what_a_client_sends_cannot_be_altered_on_the_way(phase: Phase, place: int) -> None:
    server, client, answer = run_until(PHASES[PHASES.index(phase) - 1])
    client.receive(answer)
    query = client.next_query()
    sent = query.get(phase.value) or ""
    paired: list[str | None] = []
    query = query.replaced(**{phase.value: flipped(sent, place % len(sent))})
    try:
        while not client.finished:
            answer = server.handle(query)
            paired.append(answer.text("paired"))
            client.receive(answer)
            query = client.next_query()
    except AuthenticationFailed:
        pass
    assert not client.finished
    assert server.outcome is not PairingOutcome.PAIRED


@pytest.mark.parametrize(
    ("phase", "name", "reason"),
    [
        (Phase.CLIENT_CHALLENGE, "challengeresponse", "wrong_pin"),
        (Phase.SERVER_CHALLENGE_RESPONSE, "pairingsecret", "wrong_signature"),
    ],
)
@pytest.mark.parametrize("place", [0, 20, 40])
def test_what_a_host_sends_cannot_be_altered_on_the_way(
    phase: Phase, name: str, reason: str, place: int
) -> None:
    server, client, answer = run_until(phase)
    changed = flipped(answer.text(name) or "", place)
    with pytest.raises(AuthenticationFailed) as caught:
        go_on(client, server, replaced_text(answer, name, changed))
    assert caught.value.reason == reason


def go_on(client: PairingClient, server: PairingServer, answer: Answer) -> None:
    client.receive(answer)
    while not client.finished:
        client.receive(server.handle(client.next_query()))


def test_a_host_certificate_swapped_on_the_way_is_noticed() -> None:
    server, client, answer = run_until(Phase.GET_SERVER_CERT)
    other = identity("edge").certificate.pem.hex()
    client.receive(replaced_text(answer, "plaincert", other))
    client.receive(server.handle(client.next_query()))
    with pytest.raises(AuthenticationFailed) as caught:
        client.receive(server.handle(client.next_query()))
    assert caught.value.reason == "wrong_signature"


def test_a_client_certificate_swapped_on_the_way_is_noticed() -> None:
    client = PairingClient(identity("client"), PIN)
    introduction = client.next_query().replaced(clientcert=identity("edge").certificate.pem.hex())
    server = server_for(introduction)
    client.receive(server.handle(introduction))
    for _ in range(2):
        client.receive(server.handle(client.next_query()))
    assert server.handle(client.next_query()).text("paired") == "0"
    assert server.outcome is not PairingOutcome.PAIRED


@pytest.mark.parametrize("phase", PHASES)
@pytest.mark.parametrize(
    "refusal",
    [pair_refused(), Answer.ok(text_element("paired", 0)), Answer.ok(), Answer.error(503, "Busy")],
)
def test_a_host_may_refuse_at_any_step(phase: Phase, refusal: Answer) -> None:
    _, client, _ = run_until(phase)
    with pytest.raises(AuthenticationFailed) as caught:
        client.receive(refusal)
    assert caught.value.reason == "refused"
    assert not client.finished
    with pytest.raises(OutOfOrder):
        client.next_query()


@pytest.mark.parametrize("elements", [(), (text_element("plaincert", ""),)])
def test_a_host_that_pairs_with_somebody_else_says_so(
    elements: tuple[Element, ...],
) -> None:
    client = PairingClient(identity("client"), PIN)
    with pytest.raises(AuthenticationFailed, match="another client"):
        client.receive(Answer.ok(text_element("paired", 1), *elements))


@pytest.mark.parametrize(
    ("phase", "name"),
    [
        (Phase.GET_SERVER_CERT, "plaincert"),
        (Phase.CLIENT_CHALLENGE, "challengeresponse"),
        (Phase.SERVER_CHALLENGE_RESPONSE, "pairingsecret"),
    ],
)
@pytest.mark.parametrize("text", ["0", "00" * 15, "zz" * 48, "00" * 47, "00" * 20_000])
def test_a_wrong_size_or_digit_of_a_host_ends_the_attempt(
    phase: Phase, name: str, text: str
) -> None:
    _, client, answer = run_until(phase)
    with pytest.raises(ProtocolError) as caught:
        client.receive(replaced_text(answer, name, text))
    assert isinstance(caught.value, Malformed | TooLarge | AuthenticationFailed)
    with pytest.raises(OutOfOrder):
        client.next_query()


def test_the_host_certificate_is_not_given_before_it_is_proven() -> None:
    _, client, answer = run_until(Phase.SERVER_CHALLENGE_RESPONSE)
    with pytest.raises(OutOfOrder):
        assert client.server_certificate
    client.receive(answer)
    assert client.server_certificate == identity("host").certificate


def test_after_the_end_there_is_no_further_query() -> None:
    _, client, answer = run_until(Phase.PAIR_CHALLENGE)
    client.receive(answer)
    assert client.finished
    assert not client.over_https
    with pytest.raises(OutOfOrder):
        client.next_query()


def test_the_last_step_may_be_asked_again() -> None:
    server, _, _ = run_until(Phase.PAIR_CHALLENGE)
    assert server.handle(Query.of(("phrase", "pairchallenge"))) == pair_accepted()


@pytest.mark.parametrize(
    ("text", "phase"),
    [
        ("phrase=getservercert&salt=00", Phase.GET_SERVER_CERT),
        ("clientchallenge=00", Phase.CLIENT_CHALLENGE),
        ("serverchallengeresp=00", Phase.SERVER_CHALLENGE_RESPONSE),
        ("clientpairingsecret=00", Phase.CLIENT_PAIRING_SECRET),
        ("uniqueid=1&phrase=pairchallenge", Phase.PAIR_CHALLENGE),
    ],
)
def test_steps_are_told_by_their_query(text: str, phase: Phase) -> None:
    assert phase_of(Query.parse(text)) is phase


@pytest.mark.parametrize(
    "text",
    [
        "",
        "phrase=other",
        "phrase",
        "phrase%3Dgetservercert=1&phrase=x&clientchallenge=0&serverchallengeresp=0",
        "clientchallenge=00&clientpairingsecret=00",
        "phrase=getservercert&clientchallenge=00",
    ],
)
def test_a_query_that_is_no_step_or_two_is_malformed(text: str) -> None:
    with pytest.raises(Malformed):
        phase_of(Query.parse(text))


@pytest.mark.parametrize("name", ["salt", "clientcert"])
@pytest.mark.parametrize("text", ["", "0", "00", "zz" * 16, "00" * 17_000])
def test_a_bad_introduction_is_refused(name: str, text: str) -> None:
    query = PairingClient(identity("client"), PIN).next_query().replaced(**{name: text})
    with pytest.raises(ProtocolError):
        client_introduction(query)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(PHASES), st.text(max_size=70) | st.binary(max_size=300).map(bytes.hex))
def test_noise_in_any_step_gives_a_refusal_or_a_protocol_error(phase: Phase, text: str) -> None:
    before = PHASES[max(PHASES.index(phase) - 1, 0)]
    server, _, _ = run_until(before)
    with suppress(ProtocolError):
        server.handle(Query.of((phase.value, text)))
    assert server.outcome is not PairingOutcome.PAIRED or before is Phase.CLIENT_PAIRING_SECRET


@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(st.text(max_size=20), st.text(max_size=20)), max_size=4))
def test_noise_as_a_query_is_only_ever_a_protocol_error(pairs: list[tuple[str, str]]) -> None:
    for read in (phase_of, client_introduction, PairingServer(identity("host")).handle):
        with pytest.raises(ProtocolError):
            read(Query.of(*pairs))


def test_no_secret_is_in_a_repr() -> None:
    client = PairingClient(identity("client"), PIN, random_bytes=lambda count: b"a" * count)
    server = server_for(client.next_query())
    for _ in range(4):
        shown = repr(server) + repr(client) + repr(client.next_query())
        for secret in (PIN, "aaaa", "6161", "clientcert="):
            assert secret not in shown
        client.receive(server.handle(client.next_query()))


# --- a recorded pairing of a real client with a real host, PIN 1234


class Recorded:
    """All five steps of the recording, and the secrets that the PIN opens in them."""

    def __init__(self) -> None:
        found: dict[Phase, tuple[Query, bytes]] = {}
        for exchange in http_exchanges():
            # a second request on a connection had no answer, and came again on the next one
            target = re.match(rb"GET /pair\?(\S+)", exchange.requests)
            if target is not None:
                query = Query.parse(target[1].decode())
                found[phase_of(query)] = query, exchange.bodies[0]
        self.queries = [found[phase][0] for phase in Phase]
        self.bodies = [found[phase][1] for phase in Phase]
        self.salt, self.client = client_introduction(self.queries[0])
        self.key = hashlib.sha256(self.salt + b"1234").digest()[:16]

    def opened(self, sealed: str | None) -> bytes:
        decryptor = Cipher(algorithms.AES128(self.key), modes.ECB()).decryptor()
        return decryptor.update(bytes.fromhex(sealed or "")) + decryptor.finalize()


class Signer:
    """An identity whose private key is not here: it repeats what was signed then."""

    def __init__(self, certificate: PeerCertificate, signed: str | None) -> None:
        self.certificate = certificate
        data = bytes.fromhex(signed or "")
        self.secret, self._signature = data[:16], data[16:]

    def sign(self, data: bytes) -> bytes:
        assert data == self.secret
        return self._signature


@pytest.fixture
def recorded() -> Recorded:
    return Recorded()


@needs_captures
def test_our_client_says_byte_for_byte_what_the_real_one_said(recorded: Recorded) -> None:
    answers = [Answer.parse(body) for body in recorded.bodies]
    challenge = recorded.opened(recorded.queries[1].get("clientchallenge"))
    signer = Signer(recorded.client, recorded.queries[3].get("clientpairingsecret"))
    client = PairingClient(
        cast("Identity", signer),
        PIN,
        random_bytes=known_random([recorded.salt, challenge, signer.secret]),
    )
    for query, answer in zip(recorded.queries, answers, strict=True):
        spoken = Query(query.fields[2:])  # uniqueid and uuid are not pairing's
        assert client.next_query() == spoken
        client.receive(answer)
    assert client.finished


@needs_captures
def test_our_host_answers_byte_for_byte_what_the_real_one_answered(recorded: Recorded) -> None:
    answers = [Answer.parse(body) for body in recorded.bodies]
    host = PeerCertificate.from_pem(bytes.fromhex(answers[0].text("plaincert") or ""))
    signer = Signer(host, answers[2].text("pairingsecret"))
    challenge = recorded.opened(answers[1].text("challengeresponse"))[32:]
    server = PairingServer(
        cast("Identity", signer), random_bytes=known_random([signer.secret, challenge])
    )
    server.begin(recorded.salt, recorded.client)
    server.provide_pin(PIN)
    for query, body in zip(recorded.queries, recorded.bodies, strict=True):
        assert server.handle(query).encode() == body
    assert server.outcome is PairingOutcome.PAIRED
