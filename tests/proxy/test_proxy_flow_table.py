from __future__ import annotations

from dataclasses import dataclass

import pytest

from moonlight.flows import Flow
from moonlight.ping import Ping
from proxy.flow_table import FlowTable, NoFlow
from proxy.sessions import SessionId
from proxy.udp_port import Endpoint

HOME = Endpoint("192.0.2.1", 5000)
ELSEWHERE = Endpoint("198.51.100.7", 5000)
OWN_PORT = 48074
FIRST = SessionId("a")


@dataclass(slots=True, eq=False)
class Claim:
    kind: Flow = Flow.VIDEO
    secret: str | int = "s" * 16
    session: SessionId = FIRST
    own_port: int | None = None
    client_address: str = HOME.ip
    bound_to: Endpoint | None = None
    last_seen_at: Endpoint | None = None


def table(*claims: Claim) -> FlowTable[Claim]:
    made: FlowTable[Claim] = FlowTable()
    for claim in claims:
        made.add(claim)
    return made


def ping(secret: str | None = "s" * 16) -> Ping:
    return Ping(secret, 1)


def test_a_payload_finds_its_flow_wherever_it_comes_from() -> None:
    video = Claim()
    flows = table(video, Claim(secret="o" * 16))
    assert flows.of_ping(ping(), HOME, Flow.VIDEO) is video
    assert flows.of_ping(ping(), ELSEWHERE, Flow.VIDEO) is video


@pytest.mark.parametrize("door", [Flow.AUDIO, OWN_PORT], ids=["of audio", "of the pool"])
def test_a_payload_of_video_finds_nothing_at_another_port(door: Flow | int) -> None:
    found = table(Claim()).of_ping(ping(), HOME, door)
    assert found is (NoFlow.UNKNOWN_SECRET if door is Flow.AUDIO else NoFlow.WRONG_PORT)


@pytest.mark.parametrize("kind", [Flow.VIDEO, Flow.AUDIO])
def test_on_a_port_of_its_own_a_flow_is_found_with_its_payload_and_without(kind: Flow) -> None:
    flows = table(own := Claim(kind, own_port=OWN_PORT))
    assert flows.of_ping(ping(), ELSEWHERE, OWN_PORT) is own
    assert flows.of_ping(ping(None), HOME, OWN_PORT) is own
    assert flows.of_ping(ping(None), ELSEWHERE, OWN_PORT) is NoFlow.PING_WITHOUT_PAYLOAD
    assert flows.of_ping(ping(), HOME, kind) is NoFlow.WRONG_PORT


def test_a_ping_without_payload_finds_nothing_on_a_shared_port_nor_on_that_of_control() -> None:
    assert table(Claim()).of_ping(ping(None), HOME, Flow.VIDEO) is NoFlow.PING_WITHOUT_PAYLOAD
    control = table(Claim(Flow.CONTROL, 7, own_port=OWN_PORT))
    assert control.of_ping(ping(None), HOME, OWN_PORT) is NoFlow.PING_WITHOUT_PAYLOAD


def test_connect_data_counts_from_an_address_that_has_proven_itself_and_only_from_there() -> None:
    control, audio = Claim(Flow.CONTROL, 7), Claim(Flow.AUDIO)
    flows = table(control, audio, Claim(Flow.VIDEO, "o" * 16, SessionId("b"), bound_to=ELSEWHERE))
    assert flows.of_connect(7, HOME, Flow.CONTROL) is control
    refused = flows.of_connect(7, ELSEWHERE, Flow.CONTROL)
    assert refused is NoFlow.CONTROL_FROM_UNPROVEN_ADDRESS
    audio.bound_to = ELSEWHERE
    assert flows.of_connect(7, ELSEWHERE, Flow.CONTROL) is control
    assert flows.of_connect(8, HOME, Flow.CONTROL) is NoFlow.UNKNOWN_SECRET


def test_a_connect_without_data_counts_on_a_port_of_its_own_and_only_there() -> None:
    own, video = Claim(Flow.CONTROL, 7, own_port=OWN_PORT), Claim(own_port=OWN_PORT + 1)
    flows = table(own, video, Claim(Flow.CONTROL, 9, SessionId("b")))
    assert flows.of_connect(0, HOME, OWN_PORT) is own
    assert flows.of_connect(7, HOME, OWN_PORT) is own
    assert flows.of_connect(0, ELSEWHERE, OWN_PORT) is NoFlow.UNKNOWN_SECRET
    assert flows.of_connect(0, HOME, OWN_PORT + 1) is NoFlow.UNKNOWN_SECRET
    assert flows.of_connect(0, HOME, Flow.CONTROL) is NoFlow.UNKNOWN_SECRET


def test_a_connection_of_an_earlier_edge_is_found_once_by_where_it_was() -> None:
    flows = table(control := Claim(Flow.CONTROL, 7, last_seen_at=HOME))
    assert flows.of_midway(ELSEWHERE) is None
    assert flows.of_midway(HOME) is control
    assert flows.of_midway(HOME) is None


def test_what_is_removed_is_found_by_nothing() -> None:
    claims = (
        Claim(own_port=OWN_PORT),
        Claim(Flow.CONTROL, 7, own_port=OWN_PORT + 1, last_seen_at=HOME),
    )
    flows = table(*claims)
    for claim in claims:
        flows.remove(claim)
    assert len(flows) == 0
    assert flows.of_ping(ping(), HOME, OWN_PORT) is NoFlow.UNKNOWN_SECRET
    assert flows.of_ping(ping(None), HOME, OWN_PORT) is NoFlow.PING_WITHOUT_PAYLOAD
    assert flows.of_connect(0, HOME, OWN_PORT + 1) is NoFlow.UNKNOWN_SECRET
    assert flows.of_midway(HOME) is None


def test_what_has_taken_the_place_of_a_removed_flow_stays() -> None:
    old, new = Claim(own_port=OWN_PORT), Claim(own_port=OWN_PORT)
    flows = table(old, new)
    flows.remove(old)
    assert flows.of_ping(ping(), HOME, OWN_PORT) is new
    assert flows.of_ping(ping(None), HOME, OWN_PORT) is new
