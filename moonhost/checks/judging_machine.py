"""Judges the machine that an edge or an agent runs on: user, files, disk, limits, clock."""

from __future__ import annotations

import stat
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from moonhost.checks.finding import Finding, not_checked, ok, problem, warning

min_free_bytes: Final = 100 << 20
usual_free_bytes: Final = 1 << 30
_others: Final = 0o077
_everybody: Final = 0o007
"""A group may be there to share a file that is not the edge's alone."""
max_named: Final = 4


@dataclass(frozen=True, slots=True)
class User:
    """Who runs the doctor, and whose the checked process's files are (None: there are none)."""

    runs_as: str
    is_root: bool
    owner: str | None


@dataclass(frozen=True, slots=True)
class FileFacts:
    """A file that others should not read, or the folder of such files."""

    path: Path
    mode: int
    owner: str


@dataclass(frozen=True, slots=True)
class Descriptors:
    """How many files and sockets a process may have open, and how many it may come to need."""

    allowed: int
    needed: int
    of_running: bool
    """Whether `allowed` is the running edge's, and not that of whoever asks."""


@dataclass(frozen=True, slots=True)
class Buffers:
    """The largest that the kernel grants a UDP socket, in bytes; None where it does not tell."""

    receive_bytes: int | None
    send_bytes: int | None


def judge_user(user: User, command: str) -> Finding:
    """Say whether what is seen here is what the process itself would see."""
    if user.owner is None or user.owner == user.runs_as:
        return ok("user", f"run as {user.runs_as}")
    if user.is_root:
        return warning(
            "user",
            f"run as root, while the files are {user.owner}'s: root may read and bind everything",
            f"Run `sudo -u {user.owner} {command}` to see what {user.owner} may do.",
        )
    if user.owner == "root":
        return warning(
            "user",
            f"run as {user.runs_as}, while the files are root's: some cannot be read",
            f"Give them to the user that needs them, as with `chown {user.runs_as}`, or run this "
            "as root if root is that user.",
        )
    return warning(
        "user",
        f"run as {user.runs_as}, while the files are {user.owner}'s: some cannot be read",
        f"Run `sudo -u {user.owner} {command}`.",
    )


def judge_configured_files(files: Sequence[FileFacts]) -> list[Finding]:
    """Say whether secrets that the configuration names, wherever they are, are everybody's."""
    exposed = [file.path for file in files if stat.S_IMODE(file.mode) & _everybody]
    if exposed:
        return [_exposed("secret files", exposed, "o-rwx")]
    return [ok("secret files", _named(str(file.path) for file in files))] if files else []


def _exposed(check: str, paths: Sequence[Path], mode: str) -> Finding:
    return problem(
        check,
        f"others can read {_named(map(str, paths))}",
        f"Run `chmod {mode} {' '.join(map(str, paths))}`, and think of what they hold as known to "
        "whoever could log in here.",
    )


def judge_files(folder: FileFacts | None, secrets: Sequence[FileFacts]) -> list[Finding]:
    """Say whether an edge's own secrets are its user's alone; `folder` is None before its start."""
    check = "state folder"
    if folder is None:
        return [not_checked(check, "it is not there", "the edge makes it at its first start")]
    found = []
    exposed = [file.path for file in secrets if stat.S_IMODE(file.mode) & _others]
    if exposed:
        found.append(_exposed(check, exposed, "600"))
    foreign = [file for file in secrets if file.owner != folder.owner]
    if foreign:
        found.append(
            problem(
                check,
                f"{_named(str(file.path) for file in foreign)} is not {folder.owner}'s, as the "
                "folder is",
                f"Run `chown {folder.owner} {' '.join(str(file.path) for file in foreign)}`.",
            )
        )
    if stat.S_IMODE(folder.mode) & _others:
        found.append(
            warning(
                check,
                f"{folder.path} is open to others (mode {stat.S_IMODE(folder.mode):04o})",
                f"Run `chmod 700 {folder.path}`.",
            )
        )
    return found or [ok(check, f"{folder.path} and its files are {folder.owner}'s alone")]


def judge_disk(folder: Path, free_bytes: int) -> Finding:
    """Say whether there is room for what an edge writes."""
    free = f"{free_bytes / (1 << 30):.1f} GiB are free at {folder}"
    if free_bytes < min_free_bytes:
        return problem("disk", free, "Make room: the edge's store cannot be written without.")
    if free_bytes < usual_free_bytes:
        return warning("disk", free, "Make room before the edge's store cannot be written.")
    return ok("disk", free)


def judge_descriptors(descriptors: Descriptors) -> Finding:
    """Say whether all that the configuration allows can be open at once."""
    whose = "the edge may" if descriptors.of_running else "a process started from here may"
    seen = f"{whose} have {descriptors.allowed} files and sockets open"
    if descriptors.allowed >= descriptors.needed:
        return ok("open files", seen)
    if not descriptors.of_running:
        return not_checked(
            "open files",
            f"{seen}, and the configuration's limits allow for {descriptors.needed}",
            "what the edge may is seen once it runs (its systemd unit has LimitNOFILE; started by "
            f"hand it needs `ulimit -n {descriptors.needed}`)",
        )
    return warning(
        "open files",
        f"{seen}, and the configuration's limits allow for {descriptors.needed}",
        f"Set LimitNOFILE={descriptors.needed} in the edge's systemd unit (or `ulimit -n` before "
        "it starts) and restart it, or lower limits.max_connections, agents.max_agents and "
        "sessions.max_sessions.",
    )


def judge_buffers(buffers: Buffers, wanted_bytes: int) -> Finding:
    """Say whether UDP sockets can have buffers that hold a burst."""
    check = "UDP buffers"
    granted = {"rmem_max": buffers.receive_bytes, "wmem_max": buffers.send_bytes}
    known = {name: size for name, size in granted.items() if size is not None}
    if not known:
        return not_checked(check, "net.core.rmem_max", "this kernel does not tell it")
    small = {name: size for name, size in known.items() if size < wanted_bytes}
    if not small:
        return ok(check, f"up to {min(known.values())} bytes, and {wanted_bytes} are asked for")
    told = ", ".join(f"net.core.{name} is {size}" for name, size in small.items())
    settings = " ".join(f"net.core.{name}={wanted_bytes}" for name in small)
    return warning(
        check,
        f"{told}, and {wanted_bytes} bytes are asked for: bursts of video may be dropped",
        f"Run `sysctl -w {settings}`, and write it into /etc/sysctl.d/moonhost.conf.",
    )


def judge_clock(synchronised: bool | None) -> Finding:
    """Say whether somebody keeps the clock right."""
    if synchronised is None:
        return not_checked("clock", "whether it is synchronised", "this kernel does not tell it")
    if synchronised:
        return ok("clock", "it is synchronised")
    return warning(
        "clock",
        "nothing synchronises it",
        "Run `timedatectl set-ntp true`, or start chrony: certificates and tokens of a few "
        "minutes need the right time. (In a container it is the host's.)",
    )


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    more = len(listed) - max_named
    return ", ".join(listed[:max_named]) + (f" and {more} more" if more > 0 else "")
