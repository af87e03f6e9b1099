"""What the clients of a load test ask for, and which hosts are started for them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from moonhost.load_arena import Arena, own_hosts
from moonhost.load_options import LoadOptions
from proxy.config import ProxyConfig

ALONE = LoadOptions(
    sessions=5,
    mbps=10.0,
    seconds=10.0,
    as_json=False,
    mode="1280x720x60",
    app=None,
    edge=None,
    config=None,
)
CROWD = replace(ALONE, one_address=True)


@pytest.mark.parametrize("mbps", [0.5, 14.9, 40.0])
def test_rtsp_names_every_second_client_of_a_crowd_whatever_is_asked_for(mbps: float) -> None:
    crowd = replace(CROWD, mbps=mbps)
    asked = [crowd.wish(number, 1).bitrate_kbps for number in range(8)]
    assert [kbps >= 15_000 for kbps in asked] == [False, True] * 4
    assert {replace(ALONE, mbps=mbps).asked_kbps(number) for number in range(8)} == {mbps * 1000}


def test_only_hosts_of_its_own_are_slow() -> None:
    assert CROWD.slowdown > 1
    assert replace(CROWD, edge=("play.example.org", 47989)).slowdown == 1
    assert ALONE.slowdown == 1
    assert (ALONE.fps, ALONE.audio_packet_ms, CROWD.audio_packet_ms) == (60, 5, 10)


def test_a_crowd_has_two_kinds_of_hosts_that_have_room_for_it_together_only() -> None:
    (host,) = own_hosts(ALONE)
    assert (host.max_sessions, host.max_mbps) == (5, None)
    one, two = own_hosts(CROWD)
    assert {one.behave_like, two.behave_like} == {"wolf-2024", "wolf-2026"}
    assert one.address != two.address
    assert (one.max_sessions, one.max_mbps) == (5, 10.0)
    wide = own_hosts(replace(CROWD, sessions=64))[0]
    assert 32 <= wide.max_sessions < 64


@pytest.mark.parametrize(
    ("address", "sources"),
    [("127.0.0.1", {"127.64.0.1"}), ("::1", {None}), ("203.0.113.7", {None})],
)
def test_a_crowd_comes_from_one_address(address: str, sources: set[str | None]) -> None:
    arena = Arena(address, 47989, ProxyConfig(hostname="play.example.org"))
    crowd = {arena.target(number, one_address=True).source for number in range(300)}
    assert crowd == sources
    alone = {arena.target(number).source for number in range(300)}
    assert len(alone) == (300 if address == "127.0.0.1" else 1)


def test_a_crowd_mixes_what_tells_clients_apart_and_others_are_all_of_today() -> None:
    crowd = [CROWD.wish(number, 1) for number in range(4)]
    kinds = {(wish.corever, wish.bitrate_kbps >= 15_000) for wish in crowd}
    assert kinds == {(0, False), (0, True), (1, False), (1, True)}
    assert {ALONE.wish(number, 1).corever for number in range(4)} == {1}
