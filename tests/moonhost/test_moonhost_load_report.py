"""What a load test reports: the sessions' figures put together, and what is wrong with them."""

from __future__ import annotations

import json
import os
from dataclasses import replace

import pytest

from moonhost.cpu import CpuWatch, cpu_seconds
from moonhost.load_options import LoadOptions
from moonhost.load_report import LoadReport, percentile
from simulator.light_figures import SessionFigures
from simulator.ownership import Ownership, Whose

GOOD = SessionFigures(
    launch_ms=20.0,
    first_frame_ms=50.0,
    frames_whole=600,
    frames_lost=0,
    frames_foreign=0,
    video_foreign=0,
    packets_recovered=0,
    video_datagrams=12_000,
    video_datagrams_lost=0,
    audio_packets=2_000,
    audio_packets_lost=0,
    audio_foreign=0,
    control_foreign=0,
    socket_drops=0,
    control_round_trips_ms=(1.0, 2.0, 9.0),
    ownership=Ownership(Whose.OWN, Whose.OWN, Whose.OWN),
)


OPTIONS = LoadOptions(
    sessions=2,
    mbps=10.0,
    seconds=10.0,
    as_json=False,
    mode="1280x720x60",
    app=None,
    edge=None,
    config=None,
)
ELSEWHERE = replace(OPTIONS, one_address=True, edge=("play.example.org", 47989))
SEEN = GOOD.ownership


def report(
    *figures: SessionFigures, options: LoadOptions = OPTIONS, mixed_up: int = 0, **failed: int
) -> LoadReport:
    return LoadReport.of(
        figures,
        options,
        mixed_up=mixed_up,
        failed=failed,
        cores={"edge": 0.51239, "agent": 0.4, "client": 0.2} if figures else {},
    )


def test_the_sessions_figures_are_put_together() -> None:
    slow = replace(GOOD, launch_ms=80.0, first_frame_ms=90.0)

    told = report(GOOD, slow)

    assert told.passed
    assert (told.played, told.frames_expected, told.frames_whole) == (2, 1200, 1200)
    assert (told.launch_p50_ms, told.launch_p99_ms) == (20.0, 80.0)
    assert (told.first_frame_p50_ms, told.first_frame_p99_ms) == (50.0, 90.0)
    assert (told.control_p50_ms, told.control_p99_ms) == (2.0, 9.0)
    assert (told.video_datagrams, told.audio_packets) == (24_000, 4_000)
    assert (told.edge_cores, told.host_cores) == (0.512, None)


def test_json_has_the_names_that_scripts_know() -> None:
    told = json.loads(json.dumps(report(GOOD, GOOD).json()))

    assert told.keys() >= {
        *("sessions", "mbps", "seconds", "played", "failed"),
        *("own_video", "own_audio", "own_control", "mixed_up", "refused"),
        *("launch_p50_ms", "launch_p99_ms", "first_frame_p50_ms", "first_frame_p99_ms"),
        *("frames_expected", "frames_whole", "frames_lost"),
        *("video_datagrams", "video_datagrams_lost", "audio_packets", "audio_packets_lost"),
        *("control_p50_ms", "control_p99_ms", "edge_cores", "agent_cores", "client_cores"),
    }


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("frames_lost", "3 frames"),
        ("video_datagrams_lost", "3 video datagrams"),
        ("audio_packets_lost", "3 audio packets"),
        ("frames_foreign", "another session's"),
        ("audio_foreign", "another session's"),
        ("control_foreign", "another session's"),
    ],
)
def test_any_loss_and_any_foreign_packet_fails(name: str, said: str) -> None:
    told = report(GOOD, replace(GOOD, **{name: 3}))

    assert not told.passed
    assert said in " ".join(told.objections())


def test_a_session_that_did_not_play_fails() -> None:
    told = report(GOOD, no_picture=1)

    assert not told.passed
    assert told.objections() == ["1 sessions did not play (1 x no_picture)."]
    assert told.failed == {"no_picture": 1}


def test_a_session_that_could_not_be_ended_fails() -> None:
    assert not report(GOOD, GOOD, cancel_timeout=1).passed


def test_a_host_that_sends_too_few_frames_or_too_little_sound_fails() -> None:
    assert report(GOOD, replace(GOOD, frames_whole=545)).passed
    assert not report(GOOD, replace(GOOD, frames_whole=500)).passed
    assert report(GOOD, replace(GOOD, audio_packets=1_850)).passed
    silent = report(GOOD, replace(GOOD, audio_packets=1_000))
    assert silent.objections()[0].startswith("Only 3000 of 4000 audio packets came")


def test_it_counts_who_had_only_their_own() -> None:
    foreign = replace(GOOD, ownership=replace(SEEN, audio=Whose.FOREIGN))
    unnamed = replace(GOOD, ownership=Ownership(Whose.UNNAMED, Whose.OWN, Whose.UNNAMED))

    told = report(GOOD, foreign, unnamed, mixed_up=1, launch_host_refused=2, control_refused=1)

    assert (told.own_video, told.own_audio, told.own_control) == (2, 2, 2)
    assert (told.mixed_up, told.refused) == (1, 3)
    assert "1 mixed up, 3 refused" in told.table()


def test_a_session_that_was_mixed_up_fails_also_if_it_did_not_play_on() -> None:
    told = report(GOOD, GOOD, mixed_up=1)
    assert not told.passed
    assert "1 sessions were mixed up" in told.objections()[0]


def test_a_crowd_may_lose_something_but_nobody_may_lack_their_own() -> None:
    lossy = replace(GOOD, frames_lost=3, frames_whole=60)
    told = report(GOOD, lossy, options=ELSEWHERE)
    assert told.passed
    assert told.warnings()[0] == "Lost: 3 frames."

    deaf = replace(GOOD, ownership=replace(SEEN, audio=Whose.NOTHING))
    assert report(GOOD, deaf, options=ELSEWHERE).objections() == [
        "Only 1 of 2 sessions surely had their own sound."
    ]
    assert not report(GOOD, options=ELSEWHERE, launch_host_refused=1).passed


def test_hosts_that_name_no_session_are_told_of() -> None:
    real = replace(GOOD, ownership=Ownership(Whose.UNNAMED, Whose.OWN, Whose.UNNAMED))
    told = report(real, real, options=ELSEWHERE)
    assert told.passed
    assert "do not tell whose a picture is" in " ".join(told.warnings())


def test_what_slow_hosts_send_is_what_is_expected() -> None:
    own = report(GOOD, options=replace(ELSEWHERE, edge=None))
    assert own.frames_expected == 40
    assert report(GOOD, options=ELSEWHERE).frames_expected == 600


def test_nothing_played_is_told_without_figures() -> None:
    told = report(launch_timeout=2)

    assert not told.passed
    assert told.launch_p50_ms is None
    assert told.control_p99_ms is None
    assert told.edge_cores is None
    assert "0 of 2 played" in told.table()


def test_a_client_at_its_own_limit_is_told() -> None:
    assert report(GOOD, GOOD).warnings() == []
    busy = replace(report(GOOD, replace(GOOD, socket_drops=4)), client_cores=0.97)
    assert len(busy.warnings()) == 2
    assert busy.passed


def test_the_table_shows_what_an_operator_looks_for() -> None:
    table = report(GOOD, GOOD).table()
    for text in ("2 of 2 played", "1200 of 1200 whole, 0 lost", "2.0 ms, p99 9.0 ms", "0.51"):
        assert text in table


def test_percentiles_are_samples() -> None:
    hundred = [float(number) for number in range(100, 0, -1)]
    assert (percentile(hundred, 50), percentile(hundred, 99)) == (50.0, 99.0)
    assert percentile([4.0], 99) == 4.0
    assert percentile([], 50) is None


def test_the_kernel_tells_what_processes_use() -> None:
    watch = CpuWatch({"edge": os.getpid(), "agent-one": os.getpid(), "agent-two": os.getpid()})
    before = cpu_seconds(os.getpid())
    while cpu_seconds(os.getpid()) < before + 0.05:
        pass
    assert watch.own_cores() > 0
    edge, agents = watch.cores("edge"), watch.cores("agent")
    assert edge is not None
    assert agents is not None
    assert edge > 0
    assert agents > edge
    assert watch.cores("host") is None
    assert cpu_seconds(2**22 + 1) == 0.0
