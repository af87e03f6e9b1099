"""A NAT between a client and the edge, made of network namespaces, that can be made to forget.

The caller's own thread goes into a new namespace for a block, and the edge with it. Worker threads
that begin meanwhile stay there for good, so the caller has a process of its own. Two more
namespaces are a router that masquerades and what is behind it. They end with the processes that
hold them: nothing stays behind on the machine, and nothing of it is changed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

EDGE, CLIENT = "10.213.0.1", "10.214.0.2"
_LAN = "10.214.0.1"
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)
_ready_timeout_s = 10.0


class CannotEmulate(Exception):
    """What is missing for it: tools, or the right to make namespaces."""


@dataclass
class Nat:
    """A router with one public address, and one client behind it."""

    router: tuple[str, ...]
    """The beginning of a command that runs on the router."""
    behind: tuple[str, ...]
    """The beginning of a command that runs behind it."""
    public: str = "10.213.0.2"

    def forget(self, *, ports: str, public: str | None = None) -> None:
        """Forget all mappings, and make new ones to these ports, and to this address if given.

        As when a router restarts or is given another address. The kernel forgets what it
        masqueraded when the address goes.
        """
        self.masquerade(ports)
        _run(*self.router, "ip", "addr", "del", f"{self.public}/24", "dev", "wan")
        self.public = public or self.public
        _run(*self.router, "ip", "addr", "add", f"{self.public}/24", "dev", "wan")

    def masquerade(self, ports: str) -> None:
        """Map new UDP flows to these ports."""
        rules = f"""\
flush ruleset
table ip nat {{
    chain leaving {{
        type nat hook postrouting priority 100
        oifname wan meta l4proto udp masquerade to :{ports}
        oifname wan masquerade
    }}
}}
"""
        _run(*self.router, "nft", "-f", "-", given=rules)


@contextmanager
def nat(ports: str) -> Iterator[Nat]:
    """Be at address `EDGE` in a namespace of one's own for a block, with a NAT before it.

    Raises:
        CannotEmulate: there is no way to do this here.

    """
    missing = [tool for tool in ("ip", "nft", "nsenter", "unshare") if shutil.which(tool) is None]
    if missing:
        raise CannotEmulate(f"there is no {' and no '.join(missing)}")
    with ExitStack() as leaving:
        here = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        leaving.callback(os.close, here)
        if _libc.unshare(_CLONE_NEWNET) != 0:
            raise CannotEmulate(f"no new network namespace: {os.strerror(ctypes.get_errno())}")
        leaving.callback(_libc.setns, here, _CLONE_NEWNET)
        router, behind = (leaving.enter_context(_namespace()) for _ in range(2))
        made = Nat(_inside(router), _inside(behind))
        _run("ip", "link", "set", "lo", "up")
        _link((), "edge", EDGE, router, "wan", made.public)
        _link(_inside(router), "lan", _LAN, behind, "home", CLIENT)
        _run(*made.router, "sh", "-c", "echo 1 > /proc/sys/net/ipv4/ip_forward")
        _run(*made.behind, "ip", "route", "add", "default", "via", _LAN)
        made.masquerade(ports)
        yield made


@contextmanager
def _namespace() -> Iterator[int]:
    """Hold a new namespace for a block, by the process whose id this gives."""
    holder = subprocess.Popen(["unshare", "-n", "sleep", "infinity"])
    try:
        ours = os.readlink("/proc/thread-self/ns/net")
        deadline = time.monotonic() + _ready_timeout_s
        while os.readlink(f"/proc/{holder.pid}/ns/net") == ours:
            if time.monotonic() > deadline:
                raise CannotEmulate("a process of its own gets no network namespace")
            time.sleep(0.01)
        yield holder.pid
    finally:
        holder.kill()
        holder.wait()


def _inside(pid: int) -> tuple[str, ...]:
    return ("nsenter", "-t", str(pid), "-n")


def _link(
    here: tuple[str, ...], name: str, address: str, there: int, other: str, other_address: str
) -> None:
    peer = ("peer", "name", other, "netns", str(there))
    _run(*here, "ip", "link", "add", name, "type", "veth", *peer)
    for place, end, its in ((here, name, address), (_inside(there), other, other_address)):
        _run(*place, "ip", "addr", "add", f"{its}/24", "dev", end)
        _run(*place, "ip", "link", "set", end, "up")


def _run(*command: str, given: str | None = None) -> None:
    try:
        subprocess.run(command, check=True, text=True, input=given, capture_output=True)
    except subprocess.CalledProcessError as error:
        name = Path(command[0]).name
        raise CannotEmulate(f"{name} {command[1:]}: {error.stderr}") from error
