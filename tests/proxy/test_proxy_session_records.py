from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from proxy_fakes import BACKEND, session

from backends.model import BackendId
from backends.slots import Reservation
from moonlight.errors import ProtocolError
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl
from proxy import session_records
from proxy.session_records import from_record, to_record
from proxy.sessions import (
    FlowTerms,
    Session,
    SessionId,
    SessionState,
    StreamKey,
    VideoEncryption,
    VideoEncryptor,
)

RESERVATION = Reservation(BACKEND)

texts = st.text(max_size=20)
payloads = st.text(st.characters(min_codepoint=33, max_codepoint=126), min_size=16, max_size=16)
u32_max = 2**32 - 1
u32 = st.integers(0, u32_max)
ports = st.integers(1, 65_535)
terms = st.one_of(
    st.builds(FlowTerms, ports, payloads, st.none() | payloads),
    st.builds(FlowTerms, ports, u32, st.none() | u32),
)
urls = st.builds(
    RtspUrl,
    st.booleans(),
    st.one_of(
        st.from_regex(r"[a-z0-9]{1,20}", fullmatch=True),
        st.ip_addresses(v=4).map(str),
        st.just("2001:db8::7"),
    ),
    ports,
)
sessions = st.builds(
    Session,
    id=texts.map(SessionId),
    client=texts.map(ClientId),
    client_address=texts,
    backend=texts.map(BackendId),
    app_id=st.integers(1, 2**31 - 1),
    app_title=texts,
    mode=texts,
    key=st.builds(StreamKey, st.binary(min_size=16, max_size=16), st.integers(-(2**31), 2**31 - 1)),
    corever=st.integers(0, 255),
    label=texts,
    rtsp_port=ports,
    host_rtsp=urls,
    state=st.sampled_from(SessionState),
    since=st.just(42.0),
    reservation=st.just(RESERVATION),
    flows=st.dictionaries(st.sampled_from(Flow), terms),
    kbps=st.none() | ports,
    codec=st.none() | texts,
    audio_channels=st.none() | st.integers(1, 8),
    own_udp_ports=st.dictionaries(st.sampled_from(Flow), ports),
    video=st.builds(VideoEncryption, st.sampled_from(VideoEncryptor), st.integers(0, 2**64 - 1)),
    control_client=st.none() | st.tuples(st.ip_addresses().map(str), ports),
    rtsp_encrypted=st.booleans(),
    rtsp_sequence=u32,
    host_rtsp_sequence=u32,
    started_at=st.datetimes(timezones=st.just(UTC)),
)


@settings(max_examples=150)
@given(sessions)
def test_a_session_comes_back_from_its_record_as_it_was(written: Session) -> None:
    assert from_record(to_record(written), RESERVATION, now=42.0) == written


def test_a_record_says_openly_only_what_operators_may_see() -> None:
    one = session("a", label="unguessable")
    one.flows[Flow.VIDEO] = FlowTerms(47998, "0123456789abcdef", "fedcba9876543210")
    record = to_record(one)
    shown = repr(record)
    assert all(word not in shown for word in ("unguessable", "0123456789abcdef", "fedcba98"))
    assert (record.id, record.state, record.backend_id) == ("a", "launched", BACKEND)
    assert record.updated_at <= datetime.now(UTC)


def test_the_encoded_details_show_no_secret_either() -> None:
    details = session_records._Details(
        client_address="192.0.2.1",
        app_id=1,
        mode="m",
        rikey=b"k" * 16,
        rikeyid=4711,
        corever=1,
        label="unguessable",
        rtsp_port=1,
        host_rtsp="rtsp://h:1",
        flows={"video": (1, "0123456789abcdef", None)},
    )
    assert "unguessable" not in repr(details)
    assert "0123456789abcdef" not in repr(details)
    assert "kkkk" not in repr(details)


@pytest.mark.parametrize(
    "details",
    [b"", b"\x00\xff", b"{}", b"[]", b'{"client_address": 7}', b"[" * 100_000],
    ids=["empty", "noise", "nothing in it", "a list", "another type", "deep"],
)
def test_details_of_another_version_are_refused_and_not_guessed(details: bytes) -> None:
    record = replace(to_record(session("a")), details=details)
    with pytest.raises(ValueError):  # noqa: PT011 - which one does not matter
        from_record(record, RESERVATION, now=0.0)


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"rtsp://", b"http://"), (b'"flows":{}', b'"flows":{"touch":[1,"x",null]}')],
    ids=["no RTSP URL", "no such flow"],
)
def test_details_that_make_no_sense_are_refused(old: bytes, new: bytes) -> None:
    record = to_record(session("a"))
    assert old in record.details
    with pytest.raises((ValueError, ProtocolError)):
        from_record(replace(record, details=record.details.replace(old, new)), RESERVATION, now=0.0)


def test_a_record_of_before_video_was_encrypted_is_understood() -> None:
    written = session("a")
    record = to_record(written)
    details = msgspec.json.decode(record.details)
    del details["video"]
    older = replace(record, details=msgspec.json.encode(details))
    assert from_record(older, written.reservation, now=0.0) == written


def test_a_state_that_this_edge_does_not_know_is_refused() -> None:
    with pytest.raises(ValueError, match="asleep"):
        from_record(replace(to_record(session("a")), state="asleep"), RESERVATION, now=0.0)


def test_a_record_is_later_than_the_one_before_though_the_clock_steps_back() -> None:
    one = session("s1")
    one.updated_at = datetime(2999, 1, 1, tzinfo=UTC)
    first, second = to_record(one), to_record(one)
    assert datetime(2999, 1, 1, tzinfo=UTC) < first.updated_at < second.updated_at
    again = from_record(second, Reservation(one.backend), now=0)
    assert to_record(again).updated_at > second.updated_at
