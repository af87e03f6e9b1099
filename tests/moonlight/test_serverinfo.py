from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from recorded import needs_captures
from recorded_http import http_exchanges

from moonlight.errors import Malformed, ProtocolError, TooLarge
from moonlight.serverinfo import (
    DisplayMode,
    ServerInfo,
    hevc_max_luma_pixels,
    local_ip_for,
    max_display_modes,
)
from moonlight.xml import Answer, Element, HostRefused, text_element

INFO = ServerInfo(
    hostname="wolf",
    unique_id="11111111-2222-3333-4444-555555555555",
    max_luma_pixels_hevc=hevc_max_luma_pixels,
    codec_mode_support=257,
    external_ip="203.0.113.7",
    display_modes=(DisplayMode(1920, 1080, 60), DisplayMode(5120, 2160, 90)),
    paired=True,
    current_game=2094323632,
    busy=True,
)


def without(answer: Answer, name: str) -> Answer:
    return replace(answer, elements=tuple(e for e in answer.elements if e.name != name))


def changed(answer: Answer, name: str, text: str) -> Answer:
    return replace(
        answer,
        elements=tuple(replace(e, text=text) if e.name == name else e for e in answer.elements),
    )


@pytest.mark.parametrize(
    "info",
    [
        INFO,
        ServerInfo(hostname="", unique_id=""),
        replace(INFO, external_ip=None, gpu_type=None, gs_version=None, busy=False, paired=False),
    ],
)
def test_what_is_written_is_read_again(info: ServerInfo) -> None:
    assert ServerInfo.parse(Answer.parse(info.to_answer().encode())) == info


def test_elements_that_clients_read_are_there() -> None:
    answer = INFO.to_answer()
    assert answer.text("state") == "SUNSHINE_SERVER_BUSY"
    assert answer.text("PairStatus") == "1"
    assert answer.text("currentgame") == "2094323632"
    assert answer.text("gputype") == answer.text("GsVersion") == ""
    free = replace(INFO, busy=False, paired=False).to_answer()
    assert free.text("state") == "SUNSHINE_SERVER_FREE"
    assert free.text("PairStatus") == "0"


@pytest.mark.parametrize("name", ["hostname", "uniqueid", "appversion", "PairStatus", "state"])
def test_a_host_that_does_not_say_the_essentials_is_refused(name: str) -> None:
    with pytest.raises(Malformed, match=name):
        ServerInfo.parse(without(INFO.to_answer(), name))


@pytest.mark.parametrize(
    ("name", "field", "default"),
    [
        ("GfeVersion", "gfe_version", ""),
        ("MaxLumaPixelsHEVC", "max_luma_pixels_hevc", 0),
        ("ServerCodecModeSupport", "codec_mode_support", 0),
        ("HttpsPort", "https_port", 47984),
        ("ExternalPort", "http_port", 47989),
        ("mac", "mac", ""),
        ("LocalIP", "local_ip", ""),
        ("ExternalIP", "external_ip", None),
        ("SupportedDisplayMode", "display_modes", ()),
        ("currentgame", "current_game", 0),
        ("gputype", "gpu_type", None),
    ],
)
def test_what_a_host_leaves_out_has_a_default(name: str, field: str, default: object) -> None:
    assert getattr(ServerInfo.parse(without(INFO.to_answer(), name)), field) == default


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("HttpsPort", "0"),
        ("HttpsPort", "65536"),
        ("ExternalPort", "-1"),
        ("MaxLumaPixelsHEVC", "many"),
        ("ServerCodecModeSupport", ""),
        ("ServerCodecModeSupport", "4294967296"),
        ("currentgame", "9" * 30),
        ("currentgame", "٣"),
    ],
)
def test_numbers_that_cannot_be_are_malformed(name: str, text: str) -> None:
    with pytest.raises(Malformed, match=name):
        ServerInfo.parse(changed(INFO.to_answer(), name, text))


def test_texts_of_a_host_are_made_safe_and_short() -> None:
    info = ServerInfo.parse(changed(INFO.to_answer(), "hostname", "evil\n\x1b[2J" + "x" * 999))
    assert info.hostname.startswith("evil??[2J")
    assert len(info.hostname) == 255


def test_a_mode_without_a_height_is_malformed() -> None:
    modes = Element("DisplayMode", children=(text_element("Width", 1),))
    with pytest.raises(Malformed, match="Height is missing"):
        ServerInfo.parse(replace(INFO.to_answer(), elements=(*INFO.to_answer().elements, modes)))


def test_display_modes_are_bounded() -> None:
    modes = (DisplayMode(1, 1, 1),) * (max_display_modes + 1)
    with pytest.raises(TooLarge):
        ServerInfo.parse(replace(INFO, display_modes=modes).to_answer())


def test_a_host_that_refuses_is_told_apart() -> None:
    with pytest.raises(HostRefused):
        ServerInfo.parse(Answer.error(401, "No", "/serverinfo"))


@settings(max_examples=100, deadline=None)
@given(st.sampled_from([e.name for e in INFO.to_answer().elements]), st.text(max_size=30))
def test_noise_in_any_element_gives_information_or_a_protocol_error(name: str, text: str) -> None:
    try:
        info = ServerInfo.parse(changed(INFO.to_answer(), name, text))
    except ProtocolError:
        return
    assert ServerInfo.parse(Answer.parse(info.to_answer().encode())) == info


@needs_captures
def test_recorded_answers_are_read_and_written_byte_for_byte() -> None:
    seen = set()
    for exchange in http_exchanges():
        for body in exchange.bodies:
            # the lists of modes were cut out of the recording
            if b"<hostname>" not in body:
                continue
            whole = body.replace(b"[modes]", b"").replace(
                b"<SupportedDisplayMode>...</SupportedDisplayMode>", b"<SupportedDisplayMode/>"
            )
            info = ServerInfo.parse(Answer.parse(whole))
            assert info.to_answer().encode() == whole
            seen.add((info.paired, info.busy, len(info.display_modes)))
    assert seen == {(False, False, 0), (True, False, 1), (True, True, 1)}


@pytest.mark.parametrize(
    ("reached", "told"),
    [
        ("203.0.113.1", "203.0.113.1"),
        ("169.254.1.1", "169.254.1.1"),
        ("2001:db8::1", "2001:db8::1"),
        ("fd00::1", "fd00::1"),
        ("::1", "::1"),
        ("fe80::1", "127.0.0.1"),
        ("febf::1", "127.0.0.1"),
    ],
)
def test_a_client_is_told_the_address_it_reached_unless_that_leads_nowhere_without_a_scope(
    reached: str, told: str
) -> None:
    assert local_ip_for(reached) == told
