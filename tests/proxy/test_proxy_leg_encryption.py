"""Who encrypts video on the client's leg, and what either side of RTSP gets to see of it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from moonlight.announce import Encryption, HostCapabilities, StreamSettings
from moonlight.rtsp import RtspRequest, RtspResponse
from moonlight.video_encryption import COUNTERS
from proxy.leg_encryption import (
    announced,
    for_host,
    is_wanted,
    max_counters,
    offer,
    set_counters_aside,
)
from proxy.sessions import VideoEncryption, VideoEncryptor

NOBODY, OFFERED = VideoEncryption(), VideoEncryption(VideoEncryptor.OFFERED)
EDGE, HOST = VideoEncryption(VideoEncryptor.EDGE), VideoEncryption(VideoEncryptor.HOST)
VIDEO = Encryption.VIDEO.value
SETTINGS = StreamSettings(width=1920, height=1080, fps=60, packet_size=992, bitrate_kbps=20_000)
WOLF = HostCapabilities(surround_params=("21101",), feature_flags=3)


def described(body: bytes, *headers: tuple[str, str]) -> RtspResponse:
    return RtspResponse(200, "OK", headers=(("CSeq", "2"), *headers), body=body)


def announcement(enabled: int | str) -> RtspRequest:
    text = SETTINGS.encode().replace(b"Enabled:0", f"Enabled:{enabled}".encode())
    headers = (("CSeq", "6"), ("Content-length", str(len(text))))
    return RtspRequest("ANNOUNCE", "streamid=control/13/0", headers=headers, body=text)


# Who is offered it


@pytest.mark.parametrize(
    ("address", "far"),
    [
        *((text, False) for text in ("10.0.0.1", "172.31.255.255", "192.168.1.2", "127.0.0.1")),
        *((text, False) for text in ("169.254.1.1", "100.64.0.1", "100.127.255.255")),
        *((text, False) for text in ("::1", "fe80::1", "fe80::1%eth0", "fd12::1", "fc00::1")),
        *((text, False) for text in ("::ffff:192.168.1.2", "::ffff:100.64.0.1")),
        *((text, True) for text in ("203.0.113.9", "172.32.0.1", "100.128.0.1", "8.8.8.8")),
        *((text, True) for text in ("2001:db8::1", "::ffff:8.8.8.8", "fec0::1", "nowhere", "")),
    ],
)
def test_auto_encrypts_for_clients_outside_private_networks(address: str, far: bool) -> None:
    assert is_wanted("auto", address) is far
    assert is_wanted("always", address)
    assert not is_wanted("never", address)


# What the client is told


def test_wolfs_answer_gets_two_lines_more_and_keeps_the_others() -> None:
    answer, video = offer(described(WOLF.encode()), NOBODY, wanted=True)
    assert answer.body == WOLF.encode() + (
        b"a=x-ss-general.encryptionSupported:2\r\na=x-ss-general.encryptionRequested:2\r\n"
    )
    assert (video, answer.headers) == (OFFERED, (("CSeq", "2"),))


def test_other_flags_stay_and_lines_that_are_there_are_written_over() -> None:
    host = replace(WOLF, encryption_supported=5, encryption_requested=1)
    body = host.encode().replace(b"\r\n", b"\n") + b"a=last:1"
    answer, _ = offer(described(body), NOBODY, wanted=True)
    assert answer.body == body.replace(b": 5\n", b": 7\n").replace(b"ted: 1\n", b"ted: 3\n")
    only_supported = b"a=x-ss-general.encryptionSupported:4\na=last:1"
    answer, _ = offer(described(only_supported), NOBODY, wanted=True)
    assert answer.body == (
        b"a=x-ss-general.encryptionSupported:6\na=last:1\na=x-ss-general.encryptionRequested:2\n"
    )


def test_a_stated_length_is_kept_true() -> None:
    body = WOLF.encode()
    answer, _ = offer(described(body, ("Content-Length", str(len(body)))), NOBODY, wanted=True)
    assert answer.headers[1] == ("Content-Length", str(len(answer.body)))
    assert len(answer.body) > len(body)


@pytest.mark.parametrize(
    "host",
    [
        replace(WOLF, encryption_supported=VIDEO),
        replace(WOLF, encryption_supported=7, encryption_requested=1),
        replace(WOLF, encryption_requested=VIDEO),
    ],
)
@pytest.mark.parametrize("wanted", [True, False])
def test_a_host_that_encrypts_itself_is_left_alone(host: HostCapabilities, wanted: bool) -> None:
    answer = described(host.encode())
    assert offer(answer, NOBODY, wanted=wanted) == (answer, HOST)


def test_where_it_is_not_wanted_nothing_changes() -> None:
    answer = described(WOLF.encode())
    assert offer(answer, OFFERED, wanted=False) == (answer, NOBODY)


@pytest.mark.parametrize("value", [b"", b"x", b"-1", b"0x2", b"02", b"4294967296", b"2b"])
@pytest.mark.parametrize("name", [b"Supported", b"Requested"])
def test_an_answer_that_cannot_be_read_is_left_alone(name: bytes, value: bytes) -> None:
    answer = described(b"a=x-ss-general.encryption" + name + b":" + value + b"\r\n")
    assert offer(answer, NOBODY, wanted=True) == (answer, HOST)
    assert offer(answer, EDGE, wanted=True) == (answer, EDGE)


# What the host is told


@pytest.mark.parametrize("video", [NOBODY, OFFERED, EDGE])
@pytest.mark.parametrize(("enabled", "seen"), [("2", "0"), ("3", "1"), ("7 ", "5 "), ("10", "8")])
def test_the_host_does_not_see_that_video_is_encrypted(
    video: VideoEncryption, enabled: str, seen: str
) -> None:
    assert for_host(announcement(enabled), video) == announcement(seen)


@pytest.mark.parametrize("enabled", ["0", "1", "5", "", "junk", "0x2", "4294967298"])
def test_any_other_announcement_passes_as_it_is(enabled: str) -> None:
    assert for_host(announcement(enabled), OFFERED) is not None
    assert for_host(announcement(enabled), OFFERED) == announcement(enabled)


def test_a_host_that_encrypts_itself_sees_all_and_other_messages_are_not_looked_at() -> None:
    assert for_host(announcement(3), HOST) == announcement(3)
    other = replace(announcement(3), method="SETUP")
    assert for_host(other, OFFERED) is other
    none = replace(announcement(3), body=b"")
    assert for_host(none, OFFERED) == none


# What comes of it


@pytest.mark.parametrize("enabled", ["2", "3", "7"])
def test_the_edge_encrypts_what_it_offered_and_the_client_chose(enabled: str) -> None:
    assert announced(announcement(enabled), OFFERED) == EDGE
    for video in (NOBODY, HOST):
        assert announced(announcement(enabled), video) == video


@pytest.mark.parametrize("enabled", ["0", "1", "junk"])
def test_a_client_that_cannot_plays_in_the_clear(enabled: str) -> None:
    assert announced(announcement(enabled), OFFERED) == NOBODY
    assert announced(replace(announcement(0), body=b""), OFFERED) == NOBODY


@pytest.mark.parametrize("host", [WOLF, replace(WOLF, encryption_supported=VIDEO)])
@pytest.mark.parametrize("wanted", [True, False])
def test_a_forged_handshake_turns_nothing_off(host: HostCapabilities, wanted: bool) -> None:
    answer, video = offer(described(host.encode()), EDGE, wanted=wanted)
    assert video == announced(announcement(0), video) == EDGE
    offered = HostCapabilities.parse(answer.body)
    assert (offered.encryption_supported, offered.encryption_requested) == (VIDEO, VIDEO)


# Counters


@given(
    st.lists(st.integers(0, COUNTERS), min_size=2, max_size=6),
    st.integers(0, max_counters),
)
def test_no_sealer_of_a_session_begins_within_the_counters_of_one_before(
    clocks: list[int], used: int
) -> None:
    video, taken = NOBODY, list[range]()
    for clock in clocks:
        first, video = set_counters_aside(video, clock)
        mine = range(first, first + used)
        assert not any(mine.start < other.stop and other.start < mine.stop for other in taken)
        assert mine.stop <= COUNTERS
        taken.append(mine)


def test_an_edge_that_could_not_write_its_record_goes_by_the_clock() -> None:
    first, _ = set_counters_aside(NOBODY, 1_800_000_000_000_000_000)
    a_day_of_packets = 24 * 3600 * 120_000
    later, _ = set_counters_aside(NOBODY, 1_800_000_000_000_000_000 + 24 * 3600 * 10**9)
    assert later > first + a_day_of_packets


def test_numbers_never_run_out() -> None:
    first, video = set_counters_aside(VideoEncryption(next_counter=COUNTERS - 5), 1)
    assert (first, video.next_counter) == (max_counters - 5, 2 * max_counters - 5)
