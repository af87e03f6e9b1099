"""Looks at the machine: files and their owners, disk, limits, buffers, clock, names, ports."""

from __future__ import annotations

import ctypes
import errno
import hashlib
import os
import pwd
import resource
import shutil
import socket
import ssl
import sys
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final

import psutil
import trio

from moonhost.checks.judging_machine import Buffers, FileFacts, User
from moonhost.checks.judging_ports import PortFacts, PortState, Protocol, state_of

shown_timeout_s: Final = 3.0
_sysctl: Final = Path("/proc/sys/net/core")
_proc: Final = Path("/proc")
_listens: Final = "0A"
"""TCP_LISTEN, as /proc/net writes it."""
_timesync: Final = Path("/run/systemd/timesync/synchronized")
_unsynchronised: Final = 0x40
"""STA_UNSYNC of <sys/timex.h>."""
_timex_bytes: Final = 512
"""More than any kernel's struct timex."""


@dataclass(frozen=True, slots=True)
class EdgeProcess:
    """The running edge as others on its machine see it; None is what they are not told."""

    pid: int | None = None
    uid: int | None = None


@dataclass(frozen=True, slots=True)
class WantedPort:
    """A port that an edge listens at, and the setting that says so."""

    protocol: Protocol
    address: str
    port: int
    setting: str


def user_of(folder: Path) -> User:
    """Look who we are, and whose a folder is."""
    owner = None
    with suppress(OSError):
        owner = _name(folder.stat().st_uid)
    return User(_name(os.geteuid()), os.geteuid() == 0, owner)


def file_facts(path: Path) -> FileFacts | None:
    """Look at a file's mode and owner; None where there is none, or it cannot be looked at."""
    try:
        found = path.stat()
    except OSError:
        return None
    return FileFacts(path, found.st_mode, _name(found.st_uid))


def is_closed_to_us(folder: Path) -> bool:
    """Tell whether a folder is there and not ours to look into."""
    try:
        return folder.exists() and not os.access(folder, os.R_OK | os.X_OK)
    except OSError:  # the one it is in is closed already
        return True


def free_bytes(folder: Path) -> int:
    """Tell how much room there is where a folder is, or will be."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return shutil.disk_usage(folder).free


def allowed_descriptors(pid: int | None) -> tuple[int, bool]:
    """Tell a process's limit of open files, and whether it is that one's: else it is our own."""
    if pid is not None:
        # prlimit(2) tells it to fewer users.
        with suppress(OSError, ValueError, StopIteration):
            limits = (_proc / str(pid) / "limits").read_text().splitlines()
            return int(
                next(row for row in limits if row.startswith("Max open files")).split()[3]
            ), True
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0], False


def buffers() -> Buffers:
    """Read the kernel's bounds on socket buffers."""
    return Buffers(_number(_sysctl / "rmem_max"), _number(_sysctl / "wmem_max"))


def clock_is_synchronised() -> bool | None:
    """Ask the kernel, and systemd, whether somebody keeps the clock; None where neither tells."""
    if _timesync.exists():
        return True
    with suppress(OSError, AttributeError):
        status_at = _timex_status_offset()
        timex = ctypes.create_string_buffer(_timex_bytes)
        if ctypes.CDLL(None, use_errno=True).adjtimex(timex) >= 0:
            status = ctypes.c_int.from_buffer(timex, status_at).value
            return not status & _unsynchronised
    return None


def _timex_status_offset() -> int:
    """Give where `status` stands: behind modes, offset, freq, maxerror and esterror."""
    return 5 * ctypes.sizeof(ctypes.c_long)


def own_addresses() -> frozenset[str]:
    """Tell this machine's IP addresses."""
    return frozenset(
        found.address.partition("%")[0]
        for card in psutil.net_if_addrs().values()
        for found in card
        if found.family in (socket.AF_INET, socket.AF_INET6)
    )


async def addresses_of(hostname: str) -> tuple[str, ...]:
    """Look a name up; empty where it cannot be."""
    try:
        found = await trio.socket.getaddrinfo(hostname, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return ()
    return tuple(dict.fromkeys(str(address[0]).partition("%")[0] for _, _, _, _, address in found))


async def shown_certificate(address: str, port: int) -> bytes | None:
    """Give the SHA-256 of the certificate that is shown at a port of ours; None where none is."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - not listened at
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    with trio.move_on_after(shown_timeout_s), suppress(OSError, trio.BrokenResourceError):
        plain = await trio.open_tcp_stream(anywhere.get(address, address), port)
        stream = trio.SSLStream(plain, context)
        try:
            await stream.do_handshake()
            der = stream.getpeercert(binary_form=True)
        finally:
            await trio.aclose_forcefully(stream)
        return None if der is None else hashlib.sha256(der).digest()
    return None


def edge_process(admin_address: str, admin_port: int) -> EdgeProcess:
    """Find the process that listens at the admin port.

    Whose the sockets are of a process that may do more than we may, as bind ports below 1024, the
    kernel tells to root only; not even to its own user. The user it does tell, and that user's
    commands.
    """
    where = _key("TCP", admin_address, admin_port)
    listening, uid = _listeners().get(where), _users_of_sockets().get(where)
    pid = listening.pid if listening is not None else None
    if pid is None and uid:
        edges = [process.pid for process in psutil.process_iter() if _is_edge_of(process, uid)]
        pid = edges[0] if len(edges) == 1 else None
    return EdgeProcess(pid, uid)


def _is_edge_of(process: psutil.Process, uid: int) -> bool:
    with suppress(psutil.Error, OSError):
        words = process.cmdline()
        if "proxy" in words and any(Path(word).name == "moonhost" for word in words):
            return process.uids().effective == uid
    return False


def try_ports(wanted: Iterable[WantedPort]) -> list[PortFacts]:
    """Bind each port for a moment, and find out who has those that cannot be."""
    wanted = list(wanted)
    faults = [_fault_of(port) for port in wanted]
    listeners = _listeners() if {errno.EADDRINUSE, errno.EACCES} & set(faults) else {}
    # Of a port that is not ours to bind the kernel does not say that it is taken.
    used = {(protocol, number) for protocol, _, number in listeners}
    states = [
        PortState.TAKEN
        if fault == errno.EACCES and (port.protocol, port.port) in used
        else state_of(fault)
        for port, fault in zip(wanted, faults, strict=True)
    ]
    return [
        _facts(port, state, listeners if state is PortState.TAKEN else {})
        for port, state in zip(wanted, states, strict=True)
    ]


def own_ports(wanted: Iterable[WantedPort], edge: EdgeProcess) -> list[PortFacts]:
    """Tell of each port whether the process that is the edge listens there.

    Where processes are not told, the user decides; but not root, whose are others as well.
    """
    listeners = _listeners()
    users = _users_of_sockets()
    facts = []
    for port in wanted:
        where = _key(port.protocol, port.address, port.port)
        listening, uid = listeners.get(where), users.get(where)
        if listening is None:
            state = PortState.CLOSED
        elif listening.pid is not None and edge.pid is not None:
            state = PortState.OURS if listening.pid == edge.pid else PortState.TAKEN
        elif uid and edge.uid is not None:
            state = PortState.OURS if uid == edge.uid else PortState.TAKEN
        else:
            state = PortState.UNKNOWN
        facts.append(_facts(port, state, listeners if state is PortState.TAKEN else {}))
    return facts


def _facts(port: WantedPort, state: PortState, listeners: dict[Any, Any]) -> PortFacts:
    holder = _holder(listeners, port) if listeners else ""
    return PortFacts(port.protocol, port.address, port.port, port.setting, state, holder)


def _holder(listeners: dict[Any, Any], port: WantedPort) -> str:
    """Name who has a port, or that port of all addresses or of one."""
    kind, _, number = _key(port.protocol, port.address, port.port)
    for (other_kind, _, other), listening in listeners.items():
        if (other_kind, other) == (kind, number) and listening.pid is not None:
            with suppress(psutil.Error):
                return f"{psutil.Process(listening.pid).name()}, process {listening.pid}"
    return ""


def _listeners() -> dict[tuple[str, str, int], Any]:
    """Give all sockets that take what comes to a port, by protocol, address and port."""
    found = {}
    with suppress(psutil.Error, OSError):
        for one in psutil.net_connections("inet"):
            if not one.laddr:
                continue
            if one.type == socket.SOCK_STREAM and one.status == psutil.CONN_LISTEN:
                found[_key("TCP", one.laddr.ip, one.laddr.port)] = one
            elif one.type == socket.SOCK_DGRAM and not one.raddr:
                found[_key("UDP", one.laddr.ip, one.laddr.port)] = one
    return found


def _users_of_sockets() -> dict[tuple[str, str, int], int]:
    """Give whose each listening socket is, by the same key: the kernel tells it to everybody."""
    found = {}
    for name in ("tcp", "tcp6", "udp", "udp6"):
        with suppress(OSError):
            for row in (_proc / "net" / name).read_text().splitlines()[1:]:
                _, local, remote, state, *_, uid = row.split()[:8]
                protocol = name[:3].upper()
                if state == _listens if protocol == "TCP" else not remote.strip("0:"):
                    address, _, port = local.partition(":")
                    found[_key(protocol, _address(address), int(port, 16))] = int(uid)
    return found


def _address(hexadecimal: str) -> str:
    """Read an address as /proc/net writes it: words of 32 bits in the machine's byte order."""
    raw = bytes.fromhex(hexadecimal)
    words = (raw[at : at + 4] for at in range(0, len(raw), 4))
    ordered = b"".join(int.from_bytes(word).to_bytes(4, sys.byteorder) for word in words)
    return str(ip_address(ordered))


def _key(protocol: str, address: str, port: int) -> tuple[str, str, int]:
    return protocol, str(ip_address(address.partition("%")[0])), port


def _fault_of(port: WantedPort) -> int | None:
    """Bind a port and let it go; gives the ``errno`` of what came in the way."""
    stream = port.protocol == "TCP"
    try:
        ((family, kind, _, _, where), *_) = socket.getaddrinfo(
            port.address,
            port.port,
            type=socket.SOCK_STREAM if stream else socket.SOCK_DGRAM,
            flags=socket.AI_NUMERICHOST,
        )
        with socket.socket(family, kind) as probe:
            if family == socket.AF_INET6:
                probe.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if stream:
                # As the edge does: what lingers from earlier connections is no obstacle.
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(where)
            if stream:
                probe.listen(1)
    except OSError as error:
        return error.errno or errno.EIO
    return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _number(path: Path) -> int | None:
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None
