"""What a load test found: the figures of all sessions put together, as JSON and for people."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final

from moonhost.load_options import LoadOptions
from simulator.light_figures import SessionFigures
from simulator.ownership import Whose

wanted_share: Final = 0.95
"""Of the frames and sound that sessions should have had; less is a host that did not keep up."""
busy_client_cores: Final = 0.85
"""From here on the light client, which has one core, may be what is measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadReport:
    """The object that ``--json`` prints. What was not measured is None.

    Figures are of the sessions that played to the end, and of the time in which all played.
    ``_cores`` are CPU seconds by seconds of that time. Whose things were is judged from each launch
    on: ``own_`` tells how many of those sessions saw, heard and controlled only their own,
    ``mixed_up`` how many of all that began got anything of another, also if they failed then.
    """

    sessions: int
    mbps: float
    seconds: float
    mode: str
    one_address: bool
    played: int
    own_video: int
    own_audio: int
    own_control: int
    mixed_up: int
    refused: int
    failed: dict[str, int]
    launch_p50_ms: float | None
    launch_p99_ms: float | None
    first_frame_p50_ms: float | None
    first_frame_p99_ms: float | None
    frames_expected: int
    frames_whole: int
    frames_lost: int
    video_datagrams: int
    video_datagrams_lost: int
    video_packets_recovered: int
    audio_packets_expected: int
    audio_packets: int
    audio_packets_lost: int
    foreign: int
    client_drops: int
    control_p50_ms: float | None
    control_p99_ms: float | None
    edge_cores: float | None
    agent_cores: float | None
    host_cores: float | None
    client_cores: float | None

    @classmethod
    def of(
        cls,
        figures: Sequence[SessionFigures],
        options: LoadOptions,
        *,
        mixed_up: int,
        failed: Mapping[str, int],
        cores: Mapping[str, float | None],
    ) -> LoadReport:
        """Put the figures of the sessions that played together."""
        ownerships = [session.ownership for session in figures]
        launches = [session.launch_ms for session in figures]
        pictures = [session.first_frame_ms for session in figures]
        round_trips = [ms for session in figures for ms in session.control_round_trips_ms]
        return cls(
            sessions=options.sessions,
            mbps=options.mbps,
            seconds=options.seconds,
            mode=options.mode,
            one_address=options.one_address,
            played=len(figures),
            own_video=sum(seen.video is Whose.OWN for seen in ownerships),
            own_audio=sum(seen.audio is Whose.OWN for seen in ownerships),
            own_control=sum(seen.control is Whose.OWN for seen in ownerships),
            mixed_up=mixed_up,
            refused=sum(n for reason, n in failed.items() if reason.endswith(_refusal)),
            failed=dict(Counter(failed).most_common()),
            launch_p50_ms=percentile(launches, 50),
            launch_p99_ms=percentile(launches, 99),
            first_frame_p50_ms=percentile(pictures, 50),
            first_frame_p99_ms=percentile(pictures, 99),
            frames_expected=round(options.fps * options.seconds / options.slowdown) * len(figures),
            frames_whole=sum(session.frames_whole for session in figures),
            frames_lost=sum(session.frames_lost for session in figures),
            video_datagrams=sum(session.video_datagrams for session in figures),
            video_datagrams_lost=sum(session.video_datagrams_lost for session in figures),
            video_packets_recovered=sum(session.packets_recovered for session in figures),
            audio_packets_expected=round(
                1000 / options.audio_packet_ms * options.seconds / options.slowdown
            )
            * len(figures),
            audio_packets=sum(session.audio_packets for session in figures),
            audio_packets_lost=sum(session.audio_packets_lost for session in figures),
            foreign=sum(
                session.frames_foreign + session.audio_foreign + session.control_foreign
                for session in figures
            ),
            client_drops=sum(session.socket_drops for session in figures),
            control_p50_ms=percentile(round_trips, 50),
            control_p99_ms=percentile(round_trips, 99),
            **{f"{who}_cores": _rounded(cores.get(who)) for who in _measured},
        )

    @property
    def passed(self) -> bool:
        """Whether all sessions played, none was mixed up, and nothing was lost.

        A crowd may lose something: it asks who gets what, not how much a machine carries.
        """
        return not self.objections()

    def objections(self) -> list[str]:
        """Say in sentences what is not as it should be."""
        found = []
        if self.failed or self.played < self.sessions:
            reasons = ", ".join(f"{count} x {reason}" for reason, count in self.failed.items())
            found.append(f"{self.sessions - self.played} sessions did not play ({reasons}).")
        found += self._strangers()
        return found if self.one_address else found + self._losses()

    def _strangers(self) -> list[str]:
        """Say whose was not what it should have been."""
        found = []
        if self.mixed_up or self.foreign:
            found.append(
                f"{self.mixed_up} sessions were mixed up; of what those that played got, "
                f"{self.foreign} frames or packets were another session's."
            )
        if self.one_address and self._hosts_name_sessions:
            found += [
                f"Only {own} of {self.played} sessions surely had their own {what}."
                for own, what in self._owned()
                if own < self.played
            ]
        return found

    @property
    def _hosts_name_sessions(self) -> bool:
        return self.own_video > 0 or self.mixed_up > 0

    def _owned(self) -> tuple[tuple[int, str], ...]:
        return (
            (self.own_video, "picture"),
            (self.own_audio, "sound"),
            (self.own_control, "control"),
        )

    def _losses(self) -> list[str]:
        """Say what did not come."""
        found = []
        lost = {
            "frames": self.frames_lost,
            "video datagrams": self.video_datagrams_lost,
            "audio packets": self.audio_packets_lost,
        }
        if any(lost.values()):
            what = ", ".join(f"{count} {name}" for name, count in lost.items() if count)
            found.append(f"Lost: {what}.")
        for came, expected, what in (
            (self.frames_whole, self.frames_expected, "frames"),
            (self.audio_packets, self.audio_packets_expected, "audio packets"),
        ):
            if came < wanted_share * expected:
                found.append(
                    f"Only {came} of {expected} {what} came: "
                    "the hosts did not keep up, or nothing came for a while."
                )
        return found

    def warnings(self) -> list[str]:
        """Say in sentences what is no failure, but good to know where the figures are read."""
        found = self._losses() if self.one_address else []
        if self.one_address and self.played and not self._hosts_name_sessions:
            found.append(
                "The hosts do not tell whose a picture is: simulated hosts with --picture noise do."
            )
        if self.client_drops:
            found.append(
                f"{self.client_drops} datagrams reached this client, which was too slow for them."
            )
        if self.client_cores is not None and self.client_cores > busy_client_cores:
            found.append(
                f"This client kept {self.client_cores:.2f} of its one core busy: "
                "for more sessions run several, on other machines."
            )
        return found

    def json(self) -> dict[str, Any]:
        """Return what is printed as JSON."""
        return asdict(self)

    def _from_where(self) -> str:
        return " from one address" if self.one_address else ""

    def table(self) -> str:
        """Return the figures for a person to read."""
        video_lost, audio_lost = self.video_datagrams_lost, self.audio_packets_lost
        rows = [
            ("sessions", f"{self.played} of {self.sessions} played, {self.mode}"),
            ("load", f"{self.mbps:g} Mbit/s each{self._from_where()}, for {self.seconds:g} s"),
            ("own", ", ".join(f"{own} with {what}" for own, what in self._owned())),
            ("not own", f"{self.mixed_up} mixed up, {self.refused} refused"),
            ("launch", _spread(self.launch_p50_ms, self.launch_p99_ms)),
            ("first frame", _spread(self.first_frame_p50_ms, self.first_frame_p99_ms)),
            (
                "frames",
                f"{self.frames_whole} of {self.frames_expected} whole, {self.frames_lost} lost",
            ),
            ("video", f"{self.video_datagrams} datagrams, {video_lost} lost"),
            (
                "audio",
                f"{self.audio_packets} of {self.audio_packets_expected} packets, {audio_lost} lost",
            ),
            ("control", _spread(self.control_p50_ms, self.control_p99_ms)),
            *((f"{who} cores", _cores(getattr(self, f"{who}_cores"))) for who in _measured),
        ]
        return "\n".join(f"{name:<14}{value}" for name, value in rows)


_refusal: Final = "refused"
"""How the reasons end for which the edge turned a client away."""
_measured: Final = ("edge", "agent", "host", "client")


def percentile(samples: Iterable[float], percent: float) -> float | None:
    """Return the smallest sample that so many percent do not exceed; None without samples."""
    ordered = sorted(samples)
    if not ordered:
        return None
    rank = max(1, math.ceil(len(ordered) * percent / 100))
    return round(ordered[rank - 1], 2)


def _rounded(cores: float | None) -> float | None:
    return None if cores is None else round(cores, 3)


def _spread(median: float | None, high: float | None) -> str:
    return "-" if median is None or high is None else f"{median:.1f} ms, p99 {high:.1f} ms"


def _cores(cores: float | None) -> str:
    return "-" if cores is None else f"{cores:.2f}"
