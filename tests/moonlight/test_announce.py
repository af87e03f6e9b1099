from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st
from recorded import CAPTURES, needs_captures, rtsp_exchanges

from moonlight.announce import Codec, HostCapabilities, StreamSettings
from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.rtsp import RtspParser

SETTINGS = st.builds(
    StreamSettings,
    width=st.integers(1, 16_384),
    height=st.integers(1, 16_384),
    fps=st.integers(1, 1000),
    packet_size=st.integers(64, 65_000),
    bitrate_kbps=st.integers(1, 10_000_000),
    codec=st.sampled_from(Codec),
    min_fec_packets=st.integers(0, 255),
    audio_packet_ms=st.integers(1, 60),
    audio_channels=st.integers(1, 8),
    encrypted_audio=st.just(True),
    encryption_enabled=st.integers(0, 7),
)
U32 = st.none() | st.integers(0, 2**32 - 1)
CAPABILITIES = st.builds(
    HostCapabilities,
    hevc=st.booleans(),
    av1=st.booleans(),
    reference_invalidation=st.booleans(),
    surround_params=st.lists(st.from_regex("[1-8][0-9]{2}[0-7]{1,8}", fullmatch=True)).map(tuple),
    feature_flags=U32,
    encryption_supported=U32,
    encryption_requested=U32,
)
GOOD = StreamSettings(width=1920, height=1080, fps=60, packet_size=1392, bitrate_kbps=20_000)


@given(SETTINGS)
def test_settings_read_back_as_written(settings: StreamSettings) -> None:
    assert StreamSettings.parse(settings.encode()) == settings


@given(CAPABILITIES)
def test_capabilities_read_back_as_written(capabilities: HostCapabilities) -> None:
    assert HostCapabilities.parse(capabilities.encode()) == capabilities


LINES = st.sampled_from(
    [
        *(GOOD.encode().split(b"\r\n")),
        b"a=x-nv-video[0].maxFPS:0",
        b"a=x-nv-aqos.packetDuration:\xb2",
        b"a=fmtp:97 surround-params=9",
        b"a=x-ss-general.featureFlags: -1",
    ]
)


@given(st.lists(LINES | st.binary(max_size=20), max_size=20))
def test_any_bytes_are_a_body_or_a_protocol_error(lines: list[bytes]) -> None:
    for parse in (StreamSettings.parse, HostCapabilities.parse):
        with suppress(ProtocolError):
            parse(b"\r\n".join(lines))


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        (b"maxFPS:60", b"maxFPS:0", "sdp_value"),
        (b"maxFPS:60", b"maxFPS:-60", "sdp_value"),
        (b"maxFPS:60", b"maxFPS:", "sdp_value"),
        (b"packetSize:1392", b"packetSize:65001", "sdp_value"),
        (b"bitStreamFormat:0", b"bitStreamFormat:3", "sdp_value"),
        (b"a=x-nv-video[0].maxFPS", b"b=x-nv-video[0].maxFPS", "sdp_missing"),
        (b"a=x-nv-video[0].clientViewportWd", b"a=x", "sdp_missing"),
    ],
)
def test_missing_and_impossible_settings_are_refused(old: bytes, new: bytes, reason: str) -> None:
    with pytest.raises(Malformed) as caught:
        StreamSettings.parse(GOOD.encode().replace(old, new))
    assert caught.value.reason == reason


def test_what_old_clients_leave_out_has_defaults() -> None:
    names = (b"maxFPS", b"packetSize", b"clientViewport", b"maximumBitrateKbps")
    lines = [line for line in GOOD.encode().split(b"\r\n") if any(n in line for n in names)]
    assert StreamSettings.parse(b"\n".join(lines)) == GOOD


def test_the_first_of_a_name_counts() -> None:
    assert StreamSettings.parse(GOOD.encode() + b"a=x-nv-video[0].maxFPS:30\r\n").fps == 60


def test_encrypted_audio_is_said_in_two_ways() -> None:
    body = GOOD.encode()
    assert not StreamSettings.parse(body).encrypted_audio
    for old, new in ((b"featureFlags:0", b"featureFlags:32"), (b"Enabled:0", b"Enabled:4")):
        assert StreamSettings.parse(body.replace(old, new)).encrypted_audio


def test_the_number_of_lines_has_a_limit() -> None:
    with pytest.raises(TooLarge):
        StreamSettings.parse(b"\n" * 512)
    with pytest.raises(TooLarge):
        HostCapabilities.parse(b"a\r\n" * 5, max_lines=5)


def test_impossible_capabilities_are_refused() -> None:
    with pytest.raises(Malformed):
        HostCapabilities.parse(b"a=fmtp:97 surround-params=912\r\n")
    with pytest.raises(Malformed):
        HostCapabilities.parse(b"a=x-ss-general.encryptionSupported: 4294967296\r\n")


@needs_captures
def test_recorded_bodies_are_read_and_written_the_same() -> None:
    exchanges = rtsp_exchanges(CAPTURES / "stream-20mbps.wire.txt")
    requests = []
    for exchange in exchanges:
        parser = RtspParser("request")
        parser.receive(b"".join(exchange.request))
        requests.append(parser.next())
    announce = next(r for r in requests if r is not None and r.method == "ANNOUNCE")
    assert StreamSettings.parse(announce.body) == StreamSettings(
        width=1280,
        height=720,
        fps=60,
        packet_size=1392,
        bitrate_kbps=20_000,
        min_fec_packets=2,
        encrypted_audio=True,
    )
    described = b"".join(exchanges[1].response).partition(b"\r\n\r\n")[2]
    capabilities = HostCapabilities.parse(described)
    assert capabilities == HostCapabilities(
        hevc=True, surround_params=("21101", "642014235", "85301423675"), feature_flags=3
    )
    assert capabilities.encode() == described
