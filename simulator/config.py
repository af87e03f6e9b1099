"""What a simulated host is told: its addresses, its apps, and which of Wolf's habits it has."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

from moonlight.applist import App
from simulator.picture import PictureKind

DEFAULT_APPS: Final = (App("Test ball", 378473508, False), App("Snow", 2094323632, False))


@dataclass(frozen=True, slots=True, kw_only=True)
class Traps:
    """Habits of real hosts that a peer must cope with, each of them one switch (protocol §8)."""

    silent_close: bool = False
    """Answer with Content-Length alone, then close without having said so."""

    stray_second_answer: bool = False
    """Send a 400 behind the answer to /resume, and to /launch while the client has a session."""

    fake_address: bool = False
    """Name a session by a random IPv4 address in sessionUrl0, new at every launch and resume."""

    first_from_source: bool = False
    """Where RTSP names no session, take the first one launched from that source address.

    Otherwise the last one launched from there that has not been played yet.
    """

    ping_payloads: bool = True
    """Tell sessions apart by ping payload and connect data; otherwise by source address."""

    ports_per_session: bool = False
    """Give each session UDP ports of its own for video and audio."""

    pairing_overwritten: bool = False
    """A second pairing with the same uniqueid and source address silently kills the first.

    Otherwise it waits until the first is over.
    """

    refuses_after_abort: bool = False
    """After an aborted pairing answer the next phase 1 with 400, once."""

    unpair_unanswered: bool = False
    """Close on /unpair without an answer."""

    encrypts_video: bool = False
    """Offer and request video encryption, as Sunshine can; Wolf never does."""

    encrypted_rtsp: bool = False
    """Tell a client of corever 1 and above ``rtspenc://``, and insist on it, as Sunshine does.

    Unlike Sunshine refuse messages that came before.
    """

    address_under_pin: bool = False
    """In the list of pending pairings give the client's address as "pin", not as "client_ip"."""

    insists_on_certificate: bool = False
    """Break off an HTTPS handshake without a client certificate.

    One that is not paired gets its 401 in an answer of HTTP status 200, before it has asked.
    """

    one_app: bool = False
    """One app for all clients: no /launch while it runs, /resume for anyone, /cancel for all."""

    rtsp_for_last_launch: bool = False
    """Every RTSP message is of the one session that was launched and has not played yet.

    Where there is none, RTSP closes without an answer.
    """

    pairing_by_unique_id: bool = False
    """A pairing is known by its uniqueid alone, and one left behind stays: it spoils the next."""

    unpair_unknown: bool = False
    """There is no /unpair."""

    @classmethod
    def none(cls) -> Traps:
        """A host that behaves as one would wish."""
        return cls()

    @classmethod
    def wolf_2026(cls) -> Traps:
        """Wolf of June 2026."""
        return cls(
            silent_close=True,
            stray_second_answer=True,
            fake_address=True,
            first_from_source=True,
            pairing_overwritten=True,
            refuses_after_abort=True,
            unpair_unanswered=True,
        )

    @classmethod
    def wolf_2024(cls) -> Traps:
        """Wolf of 2024: addresses are all it knows a client by."""
        return replace(
            cls.wolf_2026(), fake_address=False, ping_payloads=False, ports_per_session=True
        )

    @classmethod
    def sunshine(cls) -> Traps:
        """Sunshine of 2026."""
        return cls(
            insists_on_certificate=True,
            encrypted_rtsp=True,
            one_app=True,
            rtsp_for_last_launch=True,
            pairing_overwritten=True,
            pairing_by_unique_id=True,
            unpair_unknown=True,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HostConfig:
    """One simulated host. Any port may be 0: a free one is taken, and told in the handle.

    With `Traps.ports_per_session` each session has UDP ports `video_port` + n and `audio_port` + n
    of its own, n being the least one that no other has; free ones where these are 0.
    """

    name: str
    region: str
    address: str = "127.0.0.1"
    http_port: int = 47989
    https_port: int = 47984
    rtsp_port: int = 48010
    video_port: int = 48100
    audio_port: int = 48200
    control_port: int = 47999
    apps: tuple[App, ...] = DEFAULT_APPS
    state_dir: Path | None = None
    """Where the host's identity and its paired clients are kept; None keeps them in memory."""
    api_socket: Path | None = None
    """Where the Wolf-like API listens; None leaves it out."""
    api_port: int | None = None
    """Where the Sunshine-like API listens, over HTTPS; None leaves it out."""
    api_username: str = "sunshine"
    api_password: str = field(default="", repr=False)
    traps: Traps = field(default_factory=Traps.wolf_2026)
    picture: PictureKind = "card"
    max_bitrate_kbps: int | None = None
    """More is sent to no client, whatever it asks for; None: as much as it asks for."""
    slowdown: float = 1.0
    """How many times slower frames and sound come than asked for: many sessions then have room."""
    max_sessions: int = 4
    max_connections: int = 256
    """TCP connections per port."""
    max_pairings: int = 64
    """Pairing attempts at a time."""
    request_timeout_s: float = 10.0
    pin_timeout_s: float = 300.0
    ping_timeout_s: float = 10.0
    """A client whose pings stay out that long is taken to have left."""
