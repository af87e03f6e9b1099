from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import Malformed
from moonlight.http import HttpServer, Query
from moonlight.launch import (
    LaunchRequest,
    RtspUrl,
    cancel_answer,
    launch_answer,
    resume_answer,
    session_url,
)
from moonlight.xml import Answer, HostRefused

RIKEY = "b9c556d31ec9b6ed2695134b24b8086f"
LAUNCH = Query.parse(
    "uniqueid=0123456789ABCDEF&uuid=1&appid=2094323632&mode=1280x720x60&additionalStates=1&sops=1"
    f"&rikey={RIKEY}&rikeyid=-280119551&localAudioPlayMode=0&surroundAudioInfo=196610"
    "&remoteControllersBitmap=0&gcmap=0&corever=1"
)


def without(name: str) -> Query:
    return Query(tuple(f for f in LAUNCH.fields if not f.startswith(name + "=")))


def test_a_launch_is_read() -> None:
    launch = LaunchRequest.parse(LAUNCH, resume=False)
    assert launch.app_id == 2094323632
    assert launch.mode == (1280, 720, 60)
    assert launch.rikey.hex() == RIKEY
    assert launch.rikeyid == -280119551
    assert launch.corever == 1
    assert launch.surround_audio_info == 0x30002
    assert launch.audio_channels == 2
    assert not launch.local_audio
    assert not launch.hdr
    assert not launch.resume


def test_switches_are_read() -> None:
    launch = LaunchRequest.parse(LAUNCH.replaced(localAudioPlayMode="1", hdrMode="1"), False)
    assert launch.local_audio
    assert launch.hdr


def test_what_old_clients_leave_out_has_a_default() -> None:
    query = LAUNCH
    for name in ("corever", "surroundAudioInfo", "localAudioPlayMode"):
        query = Query(tuple(f for f in query.fields if not f.startswith(name + "=")))
    launch = LaunchRequest.parse(query, resume=False)
    assert (launch.corever, launch.audio_channels, launch.local_audio) == (0, 2, False)


def test_a_resume_may_leave_the_app_out() -> None:
    resume = LaunchRequest.parse(without("appid"), resume=True)
    assert resume.resume
    assert resume.app_id is None
    with pytest.raises(Malformed, match="does not name an app"):
        LaunchRequest.parse(without("appid"), resume=False)


def test_a_key_id_without_its_sign_is_the_same_key_id() -> None:
    launch = LaunchRequest.parse(LAUNCH.replaced(rikeyid=str(2**32 - 280119551)), False)
    assert launch.rikeyid == -280119551


def test_only_the_app_id_changes_on_the_way_to_the_host() -> None:
    launch = LaunchRequest.parse(LAUNCH, resume=False)
    assert launch.to_query() == LAUNCH
    translated = launch.to_query(app_id=7)
    assert translated.encode() == LAUNCH.encode().replace("appid=2094323632", "appid=7")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("appid", "0"),
        ("appid", "x"),
        ("appid", "2147483648"),
        ("mode", ""),
        ("mode", "1280x720"),
        ("mode", "0x720x60"),
        ("mode", "1280x0x60"),
        ("mode", "16385x720x60"),
        ("mode", "1280x16385x60"),
        ("mode", "1280x720x1001"),
        ("mode", "-1x720x60"),
        ("mode", "1280x720x60\n"),
        ("rikey", ""),
        ("rikey", RIKEY[:-1]),
        ("rikey", RIKEY + "0"),
        ("rikey", RIKEY[:-1] + "g"),
        ("rikey", RIKEY[:-1] + " "),
        ("rikeyid", ""),
        ("rikeyid", "4294967296"),
        ("rikeyid", "-2147483649"),
        ("rikeyid", "0x10"),
        ("corever", "-1"),
        ("surroundAudioInfo", "stereo"),
        ("localAudioPlayMode", "2"),
        ("hdrMode", "yes"),
    ],
)
def test_a_bad_value_is_told_in_a_sentence_without_the_key(name: str, value: str) -> None:
    with pytest.raises(Malformed) as caught:
        LaunchRequest.parse(LAUNCH.replaced(**{name: value}), resume=False)
    message = str(caught.value)
    assert re.fullmatch(r"The .*\.", message)
    assert name in message or name == "mode"
    assert RIKEY[:8] not in message


@pytest.mark.parametrize("name", ["mode", "rikey", "rikeyid"])
def test_what_a_launch_cannot_do_without_is_asked_for(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        LaunchRequest.parse(without(name), resume=False)


def test_a_resume_may_lack_its_mode() -> None:
    """moonlight-python sends none."""
    assert LaunchRequest.parse(without("mode"), resume=True).mode == (0, 0, 0)


def test_the_key_is_in_no_repr() -> None:
    launch = LaunchRequest.parse(LAUNCH, resume=False)
    shown = repr(launch) + repr(launch.query)
    assert RIKEY not in shown
    assert repr(launch.rikey) not in shown


@settings(max_examples=200)
@given(
    st.sampled_from(["appid", "mode", "rikey", "rikeyid", "corever", "surroundAudioInfo"]),
    st.text(max_size=34),
)
def test_noise_gives_a_launch_or_is_malformed(name: str, text: str) -> None:
    query = LAUNCH.replaced(**{name: text})
    try:
        launch = LaunchRequest.parse(query, resume=False)
    except Malformed:
        return
    assert launch.to_query() == query


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("rtsp://164.84.20.219:48010", RtspUrl(False, "164.84.20.219", 48010)),
        ("rtspenc://edge-7.example:48011", RtspUrl(True, "edge-7.example", 48011)),
        ("rtsp://[2001:db8::1]:48010", RtspUrl(False, "2001:db8::1", 48010)),
    ],
)
def test_session_urls_are_read_and_written(text: str, url: RtspUrl) -> None:
    assert RtspUrl.parse(text) == url
    assert str(url) == text


def test_a_session_url_without_a_port_has_the_usual_one() -> None:
    assert RtspUrl.parse("rtsp://host") == RtspUrl(False, "host", 48010)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "rtsp://",
        "http://host:1",
        "rtsp://host:0",
        "rtsp://host:65536",
        "rtsp://host:1/path",
        "rtsp://user@host:1",
        "rtsp://ho st:1",
        "rtsp://host:1\r\nHost: x",
        "rtsp://fe80::1:48010",
        "rtsp://[host]:48010",
        "rtsp://" + "a" * 251 + ":1",
    ],
)
def test_what_is_no_session_url_is_malformed(text: str) -> None:
    with pytest.raises(Malformed) as caught:
        RtspUrl.parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.from_regex(r"rtsp(enc)?://[a-z0-9.:\[\]]{0,20}", fullmatch=True))
def test_noise_gives_a_session_url_or_is_malformed(text: str) -> None:
    try:
        url = RtspUrl.parse(text)
    except Malformed:
        return
    assert RtspUrl.parse(str(url)) == url


def test_answers_name_the_session_url() -> None:
    url = RtspUrl(False, "0a1b2c.edge", 48012)
    assert session_url(launch_answer(url)) == session_url(resume_answer(str(url))) == url
    assert launch_answer(url).text("gamesession") == "1"
    assert resume_answer(url).text("resume") == "1"
    assert cancel_answer().text("cancel") == "1"


def test_a_host_that_names_no_session_url_is_told_apart_from_one_that_refuses() -> None:
    with pytest.raises(Malformed, match="no sessionUrl0"):
        session_url(Answer.ok())
    with pytest.raises(HostRefused, match="full"):
        session_url(Answer.error(503, "full"))


@needs_captures
def test_recorded_answers_are_read_and_written_byte_for_byte() -> None:
    seen = set()
    for exchange in http_exchanges():
        for body in exchange.bodies:
            answer = Answer.parse(body.replace(b"[modes]", b""))
            if b"<sessionUrl0>" in body:
                write = launch_answer if b"<gamesession>" in body else resume_answer
                assert write(session_url(answer)).encode() == body
                seen.add(write)
            elif b"<cancel>" in body:
                assert cancel_answer().encode() == body
    assert seen == {launch_answer, resume_answer}


@needs_captures
def test_recorded_launches_and_resumes_are_read() -> None:
    seen = set()
    for exchange in http_exchanges():
        for raw in exchange.requests.split(b"\r\n\r\n")[:-1]:
            if b"rikey=" not in raw:
                continue
            server = HttpServer()
            server.receive(raw + b"\r\n\r\n")
            request = server.next_request()
            assert request is not None
            launch = LaunchRequest.parse(request.query, resume=request.path == "/resume")
            assert launch.mode == (1280, 720, 60)
            seen.add(request.path)
    assert seen == {"/launch", "/resume"}
