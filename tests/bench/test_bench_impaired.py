"""What a run through a bad link comes to: ages, parts, recovery, bursts, drops; and its cases."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bench import impaired
from bench.altered import unlimited
from bench.impaired_cases import case_of, names, quick_names, shape, wire_mbps
from bench.impaired_figures import (
    Frame,
    Observation,
    ages_since,
    congestion_control_of,
    drops_told,
    figures,
    frames_of,
    largest_burst,
    late_at_edge,
    medians,
    recovery_ms,
)
from bench.link_model import LinkConfig
from bench.player import frames
from bench.traffic import Block, FrameShape

MS = 0.001


def made_and_whole(*pairs: tuple[float, float | None]) -> tuple[Frame, ...]:
    """Frames from when they were made and became whole, in ms after second 100."""
    return tuple(
        Frame(100 + made * MS, None if whole is None else 100 + whole * MS) for made, whole in pairs
    )


def observed(*pairs: tuple[float, float | None], **changes: Any) -> Observation:
    seen = Observation(
        start_s=100,
        frames_sent=len(pairs),
        datagrams_sent=380,
        datagrams_arrived=380,
        frames=made_and_whole(*pairs),
        control_ms=(),
        dropped={"flow_parity": 0, "flow_stale": 0, "flow_overfull": 0, "late": 0},
        congestion_control="bbr",
        link={"to_edge": {"delivered": 10}},
        cpu={"edge_cores": 0.1},
    )
    return replace(seen, **changes)


def test_a_frame_is_whole_once_each_block_has_as_many_shards_as_it_has_data() -> None:
    stream = FrameShape(1088, (Block(2, 1), Block(2, 1)))
    # Frame, sequence, arrival and making: the second block of frame 2 has one of its two shards.
    rows = [(1, n, 10 + n, 5) for n in (0, 2, 4, 5)] + [(2, n, 30, 20) for n in (6, 7, 9)]
    told = frames(np.array(rows, np.int64).T, stream)
    first, second = frames_of(told)
    assert first.made_s == pytest.approx(5e-9)
    assert first.whole_s == pytest.approx(15e-9)
    assert first.age_ms == pytest.approx(10e-6)
    assert (second.whole_s, second.age_ms) == (None, math.inf)


def test_ages_are_of_whole_frames_made_since_then() -> None:
    seen = made_and_whole((0, 90), (10, 40), (20, None), (30, 50))
    assert ages_since(seen, 100 + 10 * MS) == pytest.approx([30, 20])


def test_recovery_ends_with_the_first_fresh_frame_made_after_the_impairment() -> None:
    stale_before, stale_after, fresh = (90, 300), (110, 310), (290, 320)
    seen = made_and_whole(stale_before, stale_after, fresh, (300, 330))
    assert recovery_ms(seen, 100 + 100 * MS, rtt_ms=40) == pytest.approx(220)


@pytest.mark.parametrize(("age_ms", "recovered"), [(79, True), (81, False)])
def test_fresh_is_no_older_than_half_a_round_trip_and_60_ms(age_ms: int, recovered: bool) -> None:
    found = recovery_ms(made_and_whole((10, 10 + age_ms)), 100, rtt_ms=40)
    assert (found is not None) is recovered


def test_frames_that_never_become_whole_are_no_recovery() -> None:
    assert recovery_ms(made_and_whole((10, None)), 100, rtt_ms=40) is None


def test_a_burst_is_the_most_frames_in_a_window_after_the_end() -> None:
    before = [(0, 10 + at) for at in range(9)]
    after = [(0, 100), (0, 117), (0, 118), (0, 133), (0, 134), (0, 150), (0, None)]
    seen = made_and_whole(*before, *after)
    # 118, 133 and 134 are within 16 ms; 117 and 134 are not.
    assert largest_burst(seen, 100 + 99 * MS) == 3
    assert largest_burst(seen, 100 + 999 * MS) == 0


def test_the_order_of_arrival_makes_no_difference_to_a_burst() -> None:
    assert largest_burst(made_and_whole((0, 30), (0, 20), (0, 25)), 100) == 3


def test_every_frame_sent_is_whole_partial_or_never_arrived() -> None:
    seen = observed((3000, 3021), (3016, None), frames_sent=5)
    found = figures(case_of("loss-1", 12), "bounded", seen)
    assert (found["frames_sent"], found["frames_whole"], found["frames_partial"]) == (5, 1, 1)
    assert found["dropped"]["frames_never_arrived"] == 3


def test_datagrams_that_nobody_dropped_and_nobody_got_are_told() -> None:
    drops = {"flow_parity": 70, "flow_stale": 30, "flow_overfull": 0}
    seen = observed(datagrams_sent=1000, datagrams_arrived=890, dropped=drops)
    dropped = figures(case_of("loss-1", 12), "bounded", seen)["dropped"]
    assert dropped == {**drops, "frames_never_arrived": 0, "datagrams_unaccounted": 10}


def test_ages_and_control_leave_the_warm_up_out() -> None:
    control = ((101.9, 900.0), (102.1, 40.0), (102.2, 44.0))
    seen = observed((1900, 2500), (2100, 2121), control_ms=control)
    found = figures(case_of("jitter", 12), "bounded", seen)
    assert found["age_max_ms"] == pytest.approx(21)
    assert found["control_p99_ms"] == 44
    assert found["frames_whole"] == 2


def test_a_blackout_has_a_recovery_and_a_burst() -> None:
    case = case_of("blackout", 10)
    assert case.ended_s == 5.5
    found = figures(case, "bounded", observed((5400, 5600), (5590, 5610), (5600, 5620)))
    assert found["recovery_ms"] == pytest.approx(110)
    assert found["burst_frames"] == 2


def test_a_step_has_a_recovery_and_no_burst() -> None:
    found = figures(case_of("step", 9), "bounded", observed((6010, 6031)))
    assert found["recovery_ms"] == pytest.approx(31)
    assert found["burst_frames"] is None


@pytest.mark.parametrize("name", ["loss-1", "loss-0.1", "bottleneck", "jitter"])
def test_what_is_bad_all_the_time_has_neither(name: str) -> None:
    found = figures(case_of(name, 12), "unbounded", observed((3000, 3020)))
    assert (found["recovery_ms"], found["burst_frames"]) == (None, None)


def test_a_run_in_which_nothing_arrived_has_no_ages() -> None:
    found = figures(case_of("blackout", 12), "bounded", observed())
    names_of_ages = ("age_p50_ms", "age_p99_ms", "age_max_ms", "control_p99_ms", "recovery_ms")
    assert {found[name] for name in names_of_ages} == {None}
    assert found["burst_frames"] == 0


def test_drops_are_added_up_over_the_parts_of_a_flow() -> None:
    told = [
        {"event": "tunnel_connected"},
        {"event": "flow_ended", "flow": "video", "dropped": {"parity": 3, "stale": 2}},
        {"event": "flow_ended", "flow": "control", "dropped": {"overfull": 9}},
        {"event": "flow_ended", "flow": "video", "dropped": {"parity": 4}},
    ]
    log = "\n".join(["Traceback of something else", *map(json.dumps, told)])
    assert drops_told(log) == {"flow_parity": 7, "flow_stale": 2, "flow_overfull": 0}


def test_the_congestion_control_is_the_one_that_the_sockets_have() -> None:
    told = "ESTAB 0 0 10.77.0.2:5 10.77.0.1:6\n\t bbr wscale:7,7 rto:244 bbr:(bw:1bps)\n"
    assert congestion_control_of(told) == "bbr"
    assert congestion_control_of(told + "\t cubic wscale:7,7\n") == "bbr+cubic"
    assert congestion_control_of("") == "unknown"


def test_medians_reach_into_what_is_nested_and_pass_over_what_is_missing() -> None:
    def run(age: float | None, lost: int) -> dict[str, Any]:
        return {"case": "step", "age": age, "never": None, "link": {"lost": lost}}

    found = medians([run(20, 1), run(None, 2), run(90, 9)])
    assert found == {"case": "step", "age": 55, "never": None, "link": {"lost": 2}}


def test_the_streams_bitrate_on_the_wire_has_the_tunnels_headers() -> None:
    payload_mbps = shape().datagrams * 1088 * 8 * 60 / 1e6
    assert 1.03 < wire_mbps(shape()) / payload_mbps < 1.05
    rate_mbps = case_of("bottleneck", 12).link.rate_mbps
    assert rate_mbps == pytest.approx(0.8 * wire_mbps(shape()), abs=0.01)


@pytest.mark.parametrize("name", names)
@pytest.mark.parametrize("seconds", [impaired.run_s, impaired.quick_run_s])
def test_a_case_is_over_before_its_run_is_and_after_the_warm_up(name: str, seconds: float) -> None:
    case = case_of(name, seconds)
    assert case.name == name
    assert case.ended_s is None or 2 < case.ended_s < seconds - 1


def test_both_ways_are_alike_and_lose_different_packets() -> None:
    case = case_of("loss-1", 12)
    seeds: set[int] = set()
    for run in (1, 2, 3):
        up, down = case.ways(run)
        assert replace(up, seed=1) == replace(down, seed=1) == LinkConfig(delay_ms=50, loss=0.01)
        seeds |= {up.seed, down.seed}
    assert len(seeds) == 6


def test_an_unbounded_agent_drops_nothing_for_its_age() -> None:
    assert unlimited("video").limit_ms is None
    assert unlimited("video").parity_limit_ms is None


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--case", "nope"], "invalid choice: 'nope'"),
        (["--runs", "0"], "at least one run"),
        (["--queue", "endless"], "invalid choice: 'endless'"),
        (["--congestion", "vegas"], "invalid choice: 'vegas'"),
    ],
)
def test_nonsense_is_refused(
    arguments: list[str], complaint: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as refused:
        impaired.main(arguments)
    assert refused.value.code == 2
    assert complaint in capsys.readouterr().err


def test_without_root_it_says_so_and_skips(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(impaired, "can_emulate", lambda: "The emulated WAN needs root.")
    impaired.main(["--json"])
    told = capsys.readouterr()
    assert "Skipped, nothing was measured: The emulated WAN needs root." in told.err
    assert json.loads(told.out) == []


def test_what_the_command_line_asks_for() -> None:
    everything, as_json = impaired.options_of([])
    assert (everything.cases, everything.queues) == (names, ("bounded", "unbounded"))
    assert (everything.runs, everything.seconds, as_json) == (3, 26.0, False)
    quick, _ = impaired.options_of(["--quick"])
    assert (quick.cases, quick.queues, quick.runs) == (quick_names, ("bounded",), 1)
    one, as_json = impaired.options_of(
        ["--case", "step", "--case", "jitter", "--runs", "2", "--json"]
    )
    assert (one.cases, one.runs, as_json) == (("step", "jitter"), 2, True)


def test_the_table_has_a_dash_where_a_case_has_no_figure() -> None:
    direction = {"lost_random": 1, "lost_queue": 2, "lost_blackout": 4}
    link = {"to_edge": direction, "late_p99_us": 100.0}
    cpu = {"edge_cores": 0.1, "agent_cores": 0.25}
    seen = observed((3000, 3020), link=link, cpu=cpu)
    heads, row, *_ = impaired.table([figures(case_of("jitter", 12), "bounded", seen)]).splitlines()
    told = row.split()
    assert told[:6] == ["jitter", "bounded", "200", "20", "20", "20"]
    assert told[-8:] == ["-", "-", "-", "bbr", "7", "100", "0.10", "0.25"]
    assert heads.startswith("case")


def test_what_the_edge_dropped_is_read_from_its_metrics() -> None:
    metrics = {
        'moonhost_datagrams_dropped_total{reason="late_stale"}': 40.0,
        'moonhost_datagrams_dropped_total{reason="late_parity"}': 8.0,
        'moonhost_datagrams_dropped_total{reason="not_a_ping"}': 3.0,
    }
    assert late_at_edge(metrics) == {"late": 48}
