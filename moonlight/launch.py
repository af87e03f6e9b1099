"""What a launch or resume asks for, and what its answer says."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Final

from moonlight.errors import Malformed, quoted
from moonlight.http import Query
from moonlight.xml import Answer, text_element

default_rtsp_port: Final = 48010
max_side_pixels: Final = 16_384
max_fps: Final = 1000
stereo: Final = 0x3 << 16 | 2
"""`surroundAudioInfo` of a client that says nothing about audio: channel mask, channel count."""

_host: Final = r"\[(?P<v6>[0-9A-Fa-f]{0,4}:[0-9A-Fa-f:.]{1,60})\]|(?P<name>[A-Za-z0-9._~-]{1,250})"
_url: Final = re.compile(rf"(?P<scheme>rtsp|rtspenc)://(?:{_host})(?::(?P<port>[0-9]{{1,5}}))?")
_mode: Final = re.compile(r"([0-9]{1,5})x([0-9]{1,5})x([0-9]{1,4})")
_decimal: Final = re.compile(r"-?[0-9]{1,10}")
_rikey: Final = re.compile(r"[0-9A-Fa-f]{32}")


@dataclass(frozen=True, slots=True)
class RtspUrl:
    """``sessionUrl0``: where RTSP is. The client obeys its scheme and port only."""

    encrypted: bool
    host: str
    port: int = default_rtsp_port

    @classmethod
    def parse(cls, text: str) -> RtspUrl:
        """Read ``rtsp://HOST:PORT`` or ``rtspenc://…``; IPv6 addresses are in brackets."""
        match = _url.fullmatch(text)
        if match is None:
            raise Malformed("bad_session_url", f"{quoted(text)} is not an RTSP URL.")
        port = int(match["port"] or default_rtsp_port)
        if not 0 < port < 65_536:
            raise Malformed("bad_session_url", f"RTSP port {port} does not exist.")
        return cls(match["scheme"] == "rtspenc", match["v6"] or match["name"], port)

    def __str__(self) -> str:
        scheme = "rtspenc" if self.encrypted else "rtsp"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{scheme}://{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class LaunchRequest:
    """The parameters of ``/launch`` or ``/resume`` that matter on the way, and all the others.

    `rikey` is the session's AES-128 key and hidden from the repr. A frame rate of 0 is an old
    client's way to say: see ANNOUNCE. A resume may lack its mode; it is 0x0x0 then.
    """

    query: Query = field(repr=False)
    resume: bool
    app_id: int | None
    width: int
    height: int
    fps: int
    rikey: bytes = field(repr=False)
    rikeyid: int
    corever: int = 0
    surround_audio_info: int = stereo
    local_audio: bool = False
    hdr: bool = False

    @classmethod
    def parse(cls, query: Query, resume: bool) -> LaunchRequest:
        """Read the query. Raises `Malformed` with a sentence that a person understands."""
        width, height, fps = _parse_mode(query, optional=resume)
        app_id = _number(query, "appid", 1, 2**31 - 1)
        if app_id is None and not resume:
            raise Malformed("bad_launch", "The launch request does not name an app.")
        rikeyid = _number(query, "rikeyid", -(2**31), 2**32 - 1)
        if rikeyid is None:
            raise Malformed("bad_launch", "The request lacks rikeyid.")
        return cls(
            query=query,
            resume=resume,
            app_id=app_id,
            width=width,
            height=height,
            fps=fps,
            rikey=_parse_rikey(query),
            # some clients write the same 32 bits without the sign
            rikeyid=rikeyid if rikeyid < 2**31 else rikeyid - 2**32,
            corever=_number_or(0, query, "corever", 0, 255),
            surround_audio_info=_number_or(stereo, query, "surroundAudioInfo", 0, 2**32 - 1),
            local_audio=_number_or(0, query, "localAudioPlayMode", 0, 1) == 1,
            hdr=_number_or(0, query, "hdrMode", 0, 1) == 1,
        )

    @property
    def mode(self) -> tuple[int, int, int]:
        """Width, height, frames a second."""
        return self.width, self.height, self.fps

    @property
    def audio_channels(self) -> int:
        """How many audio channels the client wants."""
        return self.surround_audio_info & 0xFFFF

    def to_query(self, *, app_id: int | None = None) -> Query:
        """Give the query for a host that knows the app by `app_id`; all else is unchanged."""
        return self.query if app_id is None else self.query.replaced(appid=str(app_id))


def launch_answer(session_url: RtspUrl | str) -> Answer:
    """Say that the app is launched and where its RTSP is."""
    return Answer.ok(text_element("sessionUrl0", str(session_url)), text_element("gamesession", 1))


def resume_answer(session_url: RtspUrl | str) -> Answer:
    """Say that the app runs on and where its RTSP is."""
    return Answer.ok(text_element("sessionUrl0", str(session_url)), text_element("resume", 1))


def cancel_answer() -> Answer:
    """Say that the app has ended."""
    return Answer.ok(text_element("cancel", 1))


def session_url(answer: Answer) -> RtspUrl:
    """Read a host's answer to launch or resume.

    Raises `moonlight.xml.HostRefused` when the host refused, `Malformed` when it names no URL.
    """
    text = answer.checked().text("sessionUrl0")
    if text is None:
        raise Malformed("bad_session_url", "The host's answer to the launch has no sessionUrl0.")
    return RtspUrl.parse(text)


def _parse_mode(query: Query, *, optional: bool) -> tuple[int, int, int]:
    if optional and query.get("mode") is None:
        return 0, 0, 0
    match = _mode.fullmatch(query.get("mode") or "")
    if match is None:
        raise Malformed("bad_launch", "The request's mode is not WIDTHxHEIGHTxFPS.")
    width, height, fps = int(match[1]), int(match[2]), int(match[3])
    if not (0 < width <= max_side_pixels and 0 < height <= max_side_pixels and fps <= max_fps):
        raise Malformed(
            "bad_launch",
            f"The mode {width}x{height}x{fps} is beyond "
            f"{max_side_pixels}x{max_side_pixels}x{max_fps}.",
        )
    return width, height, fps


def _parse_rikey(query: Query) -> bytes:
    text = query.get("rikey") or ""
    if not _rikey.fullmatch(text):
        raise Malformed("bad_launch", "The request's rikey is not 32 hexadecimal digits.")
    return bytes.fromhex(text)


def _number(query: Query, name: str, low: int, high: int) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not _decimal.fullmatch(text) or not low <= int(text) <= high:
        raise Malformed(
            "bad_launch", f"The request's {name} is not a whole number from {low} to {high}."
        )
    return int(text)


def _number_or(default: int, query: Query, name: str, low: int, high: int) -> int:
    number = _number(query, name, low, high)
    return default if number is None else number
