"""``/serverinfo``: what a host tells about itself, and what clients believe."""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import ip_address
from typing import Final

from moonlight.errors import Malformed, TooLarge, printable, quoted
from moonlight.xml import Answer, Element, text_element

max_display_modes: Final = 1024
max_text_characters: Final = 255

default_http_port: Final = 47989
default_https_port: Final = 47984
hevc_max_luma_pixels: Final = 1_869_449_984
"""`max_luma_pixels_hevc` of a host that offers HEVC; 0 where it does not."""

unknown_mac: Final = "00:00:00:00:00:00"
"""`mac` of a host that nobody can wake: clients ignore it, and keep what they knew before."""

app_version: Final = "7.1.431.-1"
"""Marks the Sunshine family: SHA-256 pairing and the X-SS extensions."""

_number: Final = re.compile(r"[0-9]{1,20}")
_busy: Final = "_SERVER_BUSY"
_no_local_ip: Final = "127.0.0.1"
"""Clients ignore a ``LocalIP`` that begins with "127." and keep the one they have."""


def local_ip_for(reached: str) -> str:
    """Return what ``LocalIP`` says to a client that reached us at this address.

    It is the same address, IPv6 without brackets: clients put those around it themselves. They
    keep no scope with it, so one that is valid on one link only would lead nowhere.
    """
    address = ip_address(reached)
    return _no_local_ip if address.version == 6 and address.is_link_local else reached


@dataclass(frozen=True, slots=True)
class DisplayMode:
    """A picture that the host can make."""

    width: int
    height: int
    refresh_rate: int


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """One answer to ``/serverinfo``. None means that the element is not there.

    `paired` and `busy` are about the client that asks; `current_game` is its app, 0 for none.
    `local_ip` is where the client will look first next time.
    """

    hostname: str
    unique_id: str
    app_version: str = app_version
    gfe_version: str = "3.23.0.74"
    max_luma_pixels_hevc: int = 0
    codec_mode_support: int = 1
    https_port: int = default_https_port
    http_port: int = default_http_port
    mac: str = unknown_mac
    local_ip: str = _no_local_ip
    external_ip: str | None = None
    display_modes: tuple[DisplayMode, ...] = ()
    paired: bool = False
    current_game: int = 0
    busy: bool = False
    gpu_type: str | None = ""
    gs_version: str | None = ""

    def to_answer(self) -> Answer:
        """Write it in Wolf's order, what only some clients read behind."""
        optional = (
            ("gputype", self.gpu_type),
            ("GsVersion", self.gs_version),
        )
        external = () if self.external_ip is None else (("ExternalIP", self.external_ip),)
        return Answer.ok(
            text_element("hostname", self.hostname),
            text_element("appversion", self.app_version),
            text_element("GfeVersion", self.gfe_version),
            text_element("uniqueid", self.unique_id),
            text_element("MaxLumaPixelsHEVC", self.max_luma_pixels_hevc),
            text_element("ServerCodecModeSupport", self.codec_mode_support),
            text_element("HttpsPort", self.https_port),
            text_element("ExternalPort", self.http_port),
            text_element("mac", self.mac),
            text_element("LocalIP", self.local_ip),
            *(text_element(name, text) for name, text in external),
            Element("SupportedDisplayMode", children=tuple(map(_mode_element, self.display_modes))),
            text_element("PairStatus", int(self.paired)),
            text_element("currentgame", self.current_game),
            text_element("state", f"SUNSHINE{_busy}" if self.busy else "SUNSHINE_SERVER_FREE"),
            *(text_element(name, text) for name, text in optional if text is not None),
        )

    @classmethod
    def parse(cls, answer: Answer) -> ServerInfo:
        """Read a host's answer; texts are made printable, numbers and counts are bounded.

        Raises `moonlight.xml.HostRefused`, `Malformed` and `TooLarge`.
        """
        answer.checked()
        return cls(
            hostname=_text(answer, "hostname"),
            unique_id=_text(answer, "uniqueid"),
            app_version=_text(answer, "appversion"),
            gfe_version=_text(answer, "GfeVersion", ""),
            max_luma_pixels_hevc=_integer(answer, "MaxLumaPixelsHEVC", 0, 2**64 - 1),
            codec_mode_support=_integer(answer, "ServerCodecModeSupport", 0, 2**32 - 1),
            https_port=_port(answer, "HttpsPort", default_https_port),
            http_port=_port(answer, "ExternalPort", default_http_port),
            mac=_text(answer, "mac", ""),
            local_ip=_text(answer, "LocalIP", ""),
            external_ip=_optional_text(answer, "ExternalIP"),
            display_modes=_display_modes(answer),
            paired=_text(answer, "PairStatus") == "1",
            current_game=_integer(answer, "currentgame", 0, 2**31 - 1),
            busy=_busy in _text(answer, "state"),
            gpu_type=_optional_text(answer, "gputype"),
            gs_version=_optional_text(answer, "GsVersion"),
        )


def _mode_element(mode: DisplayMode) -> Element:
    return Element(
        "DisplayMode",
        children=(
            text_element("Width", mode.width),
            text_element("Height", mode.height),
            text_element("RefreshRate", mode.refresh_rate),
        ),
    )


def _display_modes(answer: Answer) -> tuple[DisplayMode, ...]:
    elements = answer.all("DisplayMode")
    if len(elements) > max_display_modes:
        raise TooLarge("bad_serverinfo", f"The host lists more than {max_display_modes} modes.")
    return tuple(
        DisplayMode(
            _parse_integer("Width", element.child_text("Width"), 2**31 - 1),
            _parse_integer("Height", element.child_text("Height"), 2**31 - 1),
            _parse_integer("RefreshRate", element.child_text("RefreshRate"), 2**31 - 1),
        )
        for element in elements
    )


def _optional_text(answer: Answer, name: str) -> str | None:
    text = answer.text(name)
    return None if text is None else printable(text, max_text_characters)


def _text(answer: Answer, name: str, default: str | None = None) -> str:
    text = _optional_text(answer, name)
    if text is None:
        text = default
    if text is None:
        raise Malformed("bad_serverinfo", f"The host's serverinfo lacks {name}.")
    return text


def _integer(answer: Answer, name: str, default: int, maximum: int) -> int:
    text = answer.text(name)
    return default if text is None else _parse_integer(name, text, maximum)


def _port(answer: Answer, name: str, default: int) -> int:
    port = _integer(answer, name, default, 65_535)
    if port == 0:
        raise Malformed("bad_serverinfo", f"The host's {name} is 0.")
    return port


def _parse_integer(name: str, text: str | None, maximum: int) -> int:
    if text is None or not _number.fullmatch(text) or int(text) > maximum:
        raise Malformed(
            "bad_serverinfo",
            f"The host's {name} is {quoted(text or 'missing')}, "
            f"not a whole number up to {maximum}.",
        )
    return int(text)
