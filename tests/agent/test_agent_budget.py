from __future__ import annotations

from agent.budget import with_flows
from revdial.messages import (
    AppOffer,
    FlowReport,
    Heartbeat,
    HostReport,
    decode_from_agent,
    encode,
    max_flow_reports,
)

REPORTS = [
    FlowReport(f"{number:024x}", "video", {"stale": 7, "parity": 9}, 3, 41)
    for number in range(1000)
]


def test_a_heartbeat_tells_of_as_many_flows_as_a_message_may() -> None:
    told = with_flows(Heartbeat(), REPORTS)
    assert decode_from_agent(encode(told)) == told
    assert told.flows == tuple(REPORTS[: len(told.flows)])
    assert 400 < len(told.flows) <= max_flow_reports


def test_what_a_heartbeat_has_to_tell_of_hosts_goes_first() -> None:
    apps = tuple(AppOffer("x" * 64, number) for number in range(500))
    full = Heartbeat(hosts=(HostReport("one", True, apps=apps),))
    told = with_flows(full, REPORTS)
    assert decode_from_agent(encode(told)) == told
    assert told.hosts == full.hosts
    assert 0 < len(told.flows) < 400
