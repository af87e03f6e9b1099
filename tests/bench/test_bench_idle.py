"""What idle agents' figures mean: memory, times of a return, who counts as back; and their plan."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest
import trio
import trio.testing

from bench.deployment import agents_port
from bench.idle import Return, agents_per_process, plans, started_at, table
from bench.idle_agents import IdlePlan, Welcomes, hello_of, source_of
from bench.machine import memory_in
from revdial.messages import decode_from_agent, encode

started = (
    '{"event": "tunnel_up", "timestamp": "2026-11-24T14:00:01.500000Z"}\n'
    '{"event": "edge_started", "level": "info", "timestamp": "2026-11-24T14:00:02.250000Z"}\n'
)


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 1
        return self.now


def came_back(*after_s: float) -> Return:
    """Agents that came so long after second 100, in which the new edge started."""
    return Return(
        killed_at=98.5,
        started_at=100.0,
        welcomed_at=[100 + after for after in after_s],
        start_cpu_s=0.75,
        cpu_s=4.0,
        agents_cpu_s=2.5,
        turned_away=7.0,
    )


def test_every_agent_has_a_loopback_address_of_its_own() -> None:
    sources = {source_of(index) for index in range(70_000)}
    assert len(sources) == 70_000
    assert "127.0.0.1" not in sources
    assert all(ip_address(source).is_loopback for source in sources)


def test_agents_are_shared_out_over_processes_and_each_keeps_its_token() -> None:
    tokens = [f"token-{index}" for index in range(agents_per_process + 2)]
    first, second = plans(tokens, "127.0.0.1", Path("/edge/agents.pem"))
    assert (len(first.agents), len(second.agents)) == (agents_per_process, 2)
    agents = first.agents + second.agents
    assert [agent.token for agent in agents] == tokens
    assert len({agent.id for agent in agents}) == len({agent.source for agent in agents}) == 502
    assert (first.url, first.ca_file) == (f"wss://127.0.0.1:{agents_port}", "/edge/agents.pem")


def test_a_plan_survives_being_one_line() -> None:
    (plan,) = plans(["a", "b"], "127.0.0.1", Path("ca.pem"))
    assert "\n" not in plan.to_json()
    assert IdlePlan.from_json(plan.to_json()) == plan


def test_an_idle_agent_offers_one_host_with_one_app() -> None:
    hello = decode_from_agent(encode(hello_of("agent7")))
    assert hello == hello_of("agent7")
    assert [len(host.apps) for host in hello_of("agent7").hosts] == [1]


async def test_all_are_welcome_once_the_last_is() -> None:
    welcomes = Welcomes(2, Clock())
    welcomes.tunnel_up("a")
    with trio.move_on_after(0) as waiting:
        await welcomes.all()
    assert waiting.cancelled_caught
    welcomes.tunnel_up("b")
    assert await welcomes.all() == [1, 2]


async def test_who_was_lost_again_is_not_back() -> None:
    welcomes = Welcomes(2, Clock())
    welcomes.tunnel_up("a")
    welcomes.tunnel_down("a", "connection_lost")
    welcomes.tunnel_up("b")
    with trio.move_on_after(0) as waiting:
        await welcomes.all()
    assert waiting.cancelled_caught
    welcomes.tunnel_up("a")
    assert await welcomes.all() == [2, 3]


async def test_a_return_counts_only_who_is_welcomed_anew() -> None:
    welcomes = Welcomes(1, Clock())
    welcomes.tunnel_up("a")
    welcomes.forget()
    welcomes.tunnel_down("a", "connection_lost")
    with trio.move_on_after(0) as waiting:
        await welcomes.all()
    assert waiting.cancelled_caught
    welcomes.tunnel_up("a")
    assert await welcomes.all() == [2]


def test_a_return_lasts_until_the_last_agent_from_the_start_and_from_the_kill() -> None:
    figures = came_back(1.0, 2.0, 9.0).figures("back")
    assert figures["back_seconds"] == 9.0
    assert figures["back_p50_s"] == 2.0
    assert 2.0 < figures["back_p99_s"] < 9.0
    assert figures["back_from_kill_s"] == 10.5
    assert figures["back_edge_down_s"] == 1.5


def test_a_return_costs_the_edge_what_it_used_after_its_start() -> None:
    figures = came_back(1.0, 2.0).figures("back")
    assert figures["back_edge_cpu_s"] == 3.25
    assert figures["back_edge_start_cpu_s"] == 0.75
    assert (figures["back_agents_cpu_s"], figures["back_turned_away"]) == (2.5, 7.0)


def test_the_edge_has_started_when_its_log_says_so() -> None:
    after = started_at(started) - started_at(started.replace("02.25", "01.00"))
    assert after == pytest.approx(1.25)


def test_a_log_without_a_start_is_no_start() -> None:
    with pytest.raises(ValueError, match="does not say when it started"):
        started_at(started.partition("\n")[0])


def test_memory_is_what_the_kernel_tells_in_kib() -> None:
    memory = memory_in(
        "55d0-7ffe ---p 00000000 00:00 0    [rollup]\n"
        "Rss:               60000 kB\n"
        "Pss_Anon:          41000 kB\n"
        "Anonymous:         40000 kB\n"
        "THPeligible:           0\n"
    )
    assert (memory.rss_bytes, memory.anonymous_bytes) == (60_000 * 1024, 40_000 * 1024)


def test_the_table_has_memory_in_kib_and_times_in_seconds() -> None:
    found = came_back(1.0, 9.0).figures("back") | came_back(3.0, 30.0).figures("back_shared")
    found |= {"edge_bytes_per_agent": 51_200, "edge_heap_bytes_per_agent": 50_176}
    found |= {"edge_after_back_bytes_per_agent": 61_440, "idle_edge_cores": 0.037}
    lines = table(found).splitlines()
    assert lines[0].split(maxsplit=1) == ["50.000", "KiB per idle agent at the edge"]
    assert "     9.000  s until all are back, from the new edge's start" in lines
    assert "    30.000  s until all are back from one address" in lines
