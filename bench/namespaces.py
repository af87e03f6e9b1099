"""Network namespaces by name, and TUN devices in them, through `ip` and `/dev/net/tun`.

Nothing here touches the namespace that the caller runs in. All of it needs root.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import shutil
import signal
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final

command_timeout_s: Final = 10.0
device_name: Final = "wan0"
mtu_bytes: Final = 1500
device_queue_packets: Final = 4000
"""What a TUN device holds until it is read; more than a stalled reader meets in a while."""
_tun: Final = Path("/dev/net/tun")
_clone_newnet: Final = 0x40000000
_tunsetiff: Final = 0x400454CA
_iff_tun_no_header: Final = 0x0001 | 0x1000
_needed_capabilities: Final = {"CAP_NET_ADMIN": 12, "CAP_SYS_ADMIN": 21}


class NamespaceFailed(Exception):
    """A namespace or device could not be made; the message holds the command and what it said."""


def obstacle() -> str | None:
    """Why namespaces with TUN devices cannot be made here, as one sentence; None if they can."""
    if shutil.which("ip") is None:
        return "The emulated WAN needs `ip` (Debian: iproute2)."
    try:
        held = int(_status_field("CapEff"), 16)
    except (OSError, ValueError):
        return "The emulated WAN needs Linux."
    missing = [name for name, bit in _needed_capabilities.items() if not held >> bit & 1]
    if missing:
        return f"The emulated WAN needs root ({' and '.join(missing)})."
    try:
        os.close(os.open(_tun, os.O_RDWR))
    except OSError as error:
        return f"The emulated WAN needs {_tun}: {error.strerror}."
    return None


def command_in(name: str, argv: list[str]) -> list[str]:
    """Return the command line that runs `argv` in the namespace."""
    return ["ip", "netns", "exec", name, *argv]


def create(name: str) -> None:
    """Make a namespace whose loopback is up. Raises `NamespaceFailed`."""
    _run("ip", "netns", "add", name)
    _run("ip", "-netns", name, "link", "set", "lo", "up")


def remove(*names: str) -> None:
    """Remove namespaces, killing what still runs in them; what is gone already is no error.

    Raises `NamespaceFailed` for the last that would not go, after trying all.
    """
    with ExitStack() as stack:
        for name in names:
            stack.callback(_remove, name)


def _remove(name: str) -> None:
    if not Path("/run/netns", name).exists():
        return
    with suppress(NamespaceFailed):  # half made: nothing can run in it
        for pid in _run("ip", "netns", "pids", name).split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
    _run("ip", "netns", "delete", name)


def open_tun(name: str, address: str) -> int:
    """Make a TUN device in the namespace, up, with the address and a default route through it.

    Returns its descriptor, non-blocking: a read gives one whole IP packet, a write takes one. No
    offload is on, so no packet is larger than `mtu_bytes`. The device lasts as long as the
    descriptor. Raises `NamespaceFailed` or `OSError`.
    """
    with _inside(name):
        descriptor = os.open(_tun, os.O_RDWR | os.O_NONBLOCK)
        request = struct.pack("16sH22x", device_name.encode(), _iff_tun_no_header)
        fcntl.ioctl(descriptor, _tunsetiff, request)
    on_device = ("dev", device_name)
    queue = str(device_queue_packets)
    ip = ("ip", "-netns", name)
    # No address of IPv6: nothing is to cross the link that nobody sent.
    _run(*ip, "link", "set", *on_device, "mtu", str(mtu_bytes), "txqueuelen", queue)
    _run(*ip, "link", "set", *on_device, "addrgenmode", "none")
    _run(*ip, "address", "add", address, *on_device)
    _run(*ip, "link", "set", *on_device, "up")
    _run(*ip, "route", "add", "default", *on_device)
    return descriptor


def device_drops(name: str) -> int:
    """How many packets the kernel itself lost at the namespace's TUN device. Raises `OSError`."""
    with _inside(name):
        lines = Path("/proc/thread-self/net/dev").read_text().splitlines()
    for line in lines:
        device, _, numbers = line.partition(":")
        if device.strip() == device_name:
            fields = numbers.split()
            return int(fields[3]) + int(fields[11])
    return 0


@contextmanager
def _inside(name: str) -> Iterator[None]:
    """Put this thread into the namespace for a while; `os.setns` came only with Python 3.12."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
    try:
        there = os.open(f"/run/netns/{name}", os.O_RDONLY)
        try:
            _setns(there)
        finally:
            os.close(there)
        try:
            yield
        finally:
            _setns(home)
    finally:
        os.close(home)


def _setns(descriptor: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _clone_newnet):
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")


def _status_field(name: str) -> str:
    for line in Path("/proc/self/status").read_text().splitlines():
        field, _, value = line.partition(":")
        if field == name:
            return value.strip()
    raise ValueError(name)


def _run(*command: str) -> str:
    told = subprocess.run(  # noqa: S603 - our own command lines
        command, capture_output=True, text=True, timeout=command_timeout_s, check=False
    )
    if told.returncode:
        raise NamespaceFailed(f"{' '.join(command)}: {told.stderr.strip()}")
    return told.stdout
