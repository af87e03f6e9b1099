"""What the doctor says of an agent's way to its edge, and of its hosts."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from moonhost.checks.finding import Mark
from moonhost.checks.judging_agent import (
    DialFacts,
    GpuFacts,
    HostFacts,
    TlsFault,
    judge_dial,
    judge_gpus,
    judge_host,
    udp_is_not_checked,
)

WELL = DialFacts("play.example.org", 443, ("192.0.2.7",), status=404, skew=timedelta(seconds=1))
HOST = HostFacts("pc", {"HTTP 47989": None, "RTSP 48010": None}, "Wolf's API", None, "wolf_socket")
GPUS = GpuFacts("pc", ("RTX",), (), (), ("0000:01:00.0",))


def test_a_free_way_is_told_step_by_step() -> None:
    found = judge_dial(WELL, "living-room")
    assert [(one.check, one.mark) for one in found] == [
        ("edge", Mark.OK),
        ("token", Mark.OK),
        ("clock", Mark.OK),
    ]
    plain = judge_dial(replace(WELL, encrypted=False, skew=None), "living-room")
    assert len(plain) == 2
    assert "without TLS" in plain[0].seen


def test_a_token_of_another_agent_is_told() -> None:
    _, token, _ = judge_dial(replace(WELL, token_of="den"), "living-room")
    assert (token.mark, "agent.id to den" in token.remedy) == (Mark.PROBLEM, True)
    _, own, _ = judge_dial(replace(WELL, token_of="living-room"), "living-room")
    assert own.mark is Mark.OK


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(WELL, addresses=()), "Write edge.url as the edge's name is"),
        (replace(WELL, connect_fault="Connection refused"), "`moonhost doctor` on the edge's"),
        (replace(WELL, tls_fault=TlsFault("expired", 10)), "Renew it at the edge"),
        (replace(WELL, tls_fault=TlsFault("not yet", 9)), "clock right"),
        (replace(WELL, tls_fault=TlsFault("self-signed", 18)), "edge.ca_file"),
        (replace(WELL, tls_fault=TlsFault("no issuer", 20)), "edge.ca_file"),
        (replace(WELL, tls_fault=TlsFault("name", 62)), "edge.url with the name"),
        (replace(WELL, tls_fault=TlsFault("address", 64)), "edge.url with the name"),
        (replace(WELL, tls_fault=TlsFault("revoked", 23)), "that agents can verify"),
        (replace(WELL, tls_fault=TlsFault("wrong version", None)), "agents.port"),
    ],
)
def test_what_blocks_the_way_is_told_and_nothing_behind_it(facts: DialFacts, said: str) -> None:
    (found,) = judge_dial(facts, "living-room")
    assert (found.check, found.mark) == ("edge", Mark.PROBLEM)
    assert said in found.remedy


@pytest.mark.parametrize(
    ("facts", "said"),
    [
        (replace(WELL, status=401), "`moonhost token agent living-room`"),
        (replace(WELL, status=403), "`moonhost token agent living-room`"),
        (replace(WELL, status=503), "its store"),
        (replace(WELL, status=200), "proxies on the way"),
        (replace(WELL, status=None, http_fault="ReadTimeout"), "let WebSockets through"),
    ],
)
def test_a_token_that_is_not_taken_is_told(facts: DialFacts, said: str) -> None:
    found = judge_dial(facts, "living-room")[1]
    assert (found.check, found.mark) == ("token", Mark.PROBLEM)
    assert said in found.remedy


@pytest.mark.parametrize(
    ("seconds", "mark", "said"),
    [
        (5, Mark.OK, "agrees"),
        (-5, Mark.OK, "agrees"),
        (6, Mark.WARNING, "6 s ahead of the edge's"),
        (-59, Mark.WARNING, "59 s behind the edge's"),
        (60, Mark.PROBLEM, "60 s ahead of"),
    ],
)
def test_clocks_are_compared(seconds: int, mark: Mark, said: str) -> None:
    found = judge_dial(replace(WELL, skew=timedelta(seconds=seconds)), "a")[2]
    assert found.mark is mark
    assert said in found.seen


def test_a_host_that_answers_is_fine() -> None:
    assert [found.mark for found in judge_host(HOST)] == [Mark.OK, Mark.OK]


def test_ports_that_do_not_answer_are_named() -> None:
    ports = {"HTTP 47989": "Connection refused", "RTSP 48010": None}
    closed, _ = judge_host(replace(HOST, ports=ports))
    assert (closed.mark, "HTTP 47989: Connection refused" in closed.seen) == (Mark.PROBLEM, True)


def test_an_api_that_is_missing_or_broken_is_told_with_its_setting() -> None:
    _, missing = judge_host(replace(HOST, api=""))
    assert (missing.mark, "Set wolf_socket" in missing.remedy) == (Mark.WARNING, True)
    _, broken = judge_host(replace(HOST, api_fault="no such socket"))
    assert (broken.mark, "no such socket" in broken.seen) == (Mark.PROBLEM, True)


@pytest.mark.parametrize(
    ("facts", "mark", "said"),
    [
        (GPUS, Mark.OK, "uses RTX"),
        (replace(GPUS, found=()), Mark.WARNING, "none is found"),
        (replace(GPUS, silent=("RTX",)), Mark.WARNING, "cannot be read"),
        (replace(GPUS, missing=("0000:02:00.0",)), Mark.PROBLEM, "this machine has 0000:01:00.0"),
        (replace(GPUS, missing=("x",), there=()), Mark.PROBLEM, "this machine has none"),
    ],
)
def test_gpus_are_judged(facts: GpuFacts, mark: Mark, said: str) -> None:
    found = judge_gpus(facts)
    assert found.mark is mark
    assert said in found.seen


def test_udp_of_hosts_is_said_to_be_unknown() -> None:
    assert udp_is_not_checked(["pc"]).mark is Mark.NOT_CHECKED
