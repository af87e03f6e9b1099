from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter

import pytest

from fuzz import crowd
from fuzz.crowd import MixedUp, run
from moonlight.identity import ClientId
from proxy import flow_table, matching, port_pool, sessions

INTERLEAVINGS = 10_000
FEW = range(2_000)


def test_clients_of_one_address_never_get_what_is_anothers_and_always_what_is_theirs() -> None:
    # In processes of its own: on all cores, and without the measuring of coverage.
    ran = subprocess.run(
        [sys.executable, "-m", "fuzz.crowd", "--interleavings", str(INTERLEAVINGS), "--json"],
        check=True,
        capture_output=True,
        timeout=300,
    )
    outcomes = Counter(json.loads(ran.stdout))
    assert outcomes["interleavings"] == INTERLEAVINGS
    # Each way of finding a session, and each of refusing, was gone many times.
    for outcome in (
        "launched",
        "resumed",
        "launch refused",
        "rtsp matched",
        "rtsp unknown_session",
        "rtsp session_ended",
        "rtsp label_of_another_port",
        "datagram matched",
        "datagram unknown_secret",
        "datagram ping_without_payload",
        "datagram control_from_unproven_address",
    ):
        assert outcomes[outcome] > 5, outcome


def test_a_port_that_does_not_rest_mixes_clients_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(crowd, "rest_s", 1.0)
    with pytest.raises(MixedUp, match="was taken for that of"):
        run(FEW)


def test_a_guess_among_the_waiting_mixes_clients_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def first_ones(
        self: port_pool.PortPool, address: str, client: ClientId, now: float, count: int = 1
    ) -> tuple[int, ...]:
        return tuple(self._ports[:count])

    monkeypatch.setattr(matching, "is_label", lambda _: False)
    monkeypatch.setattr(port_pool.PortPool, "choose", first_ones)
    with pytest.raises(MixedUp):
        run(FEW)


def test_own_ports_that_are_anybodys_mix_clients_up(monkeypatch: pytest.MonkeyPatch) -> None:
    anybody = flow_table.FlowTable.add

    def add(self: flow_table.FlowTable[crowd.ModelFlow], flow: crowd.ModelFlow) -> None:
        anybody(self, flow)
        for port in range(48_100, 48_150):
            self._by_own_port[port] = flow

    monkeypatch.setattr(flow_table.FlowTable, "add", add)
    with pytest.raises(MixedUp):
        run(FEW)


def test_own_ports_that_rest_while_they_are_used_again_mix_clients_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sessions.SessionTable, "set_up", lambda self, session: None)
    with pytest.raises(MixedUp):
        run(range(3_150, 3_200))
