"""Wake-on-LAN as Moonlight does it: hardware addresses, and the magic packets that name one.

Clients keep the ``mac`` of ``/serverinfo`` and send 102 bytes to every port that a host may hear
at while it sleeps: six times FF, then the address sixteen times. Other tools may add a SecureOn
password of four or six bytes.
"""

from __future__ import annotations

import hashlib
import re
from typing import Final

from moonlight.errors import Malformed

MAC_BYTES: Final = 6
_SYNC: Final = b"\xff" * 6
_REPEATS: Final = 16
_PACKET_BYTES: Final = len(_SYNC) + _REPEATS * MAC_BYTES
_SIZES: Final = frozenset({_PACKET_BYTES, _PACKET_BYTES + 4, _PACKET_BYTES + 6})
_MAC: Final = re.compile(r"[0-9A-Fa-f]{2}(?:(?::[0-9A-Fa-f]{2}){5}|(?:-[0-9A-Fa-f]{2}){5})")

static_wake_ports: Final = (9, 47009)
"""Where clients send magic packets, whatever the host's ports."""
wake_ports_from_http: Final = (9, 10, 11, 13, 21)
"""Where else, counted from the host's HTTP port: 47998, 47999, 48000, 48002, 48010 by default."""


def magic_packet(mac: bytes) -> bytes:
    """Write the datagram that wakes the machine with this hardware address."""
    if len(mac) != MAC_BYTES:
        raise ValueError(f"a hardware address has {MAC_BYTES} bytes")
    return _SYNC + _REPEATS * mac


def woken_mac(datagram: bytes) -> bytes | None:
    """Tell whom a magic packet wakes, or None where the datagram is anything else.

    Cheap for what is none: a look at its length, and at its first bytes.
    """
    if len(datagram) not in _SIZES or not datagram.startswith(_SYNC):
        return None
    mac = datagram[len(_SYNC) : len(_SYNC) + MAC_BYTES]
    return mac if datagram.startswith(_REPEATS * mac, len(_SYNC)) else None


def own_mac(identity: str) -> bytes:
    """Make up a hardware address for an identity: always the same, and that of no real machine.

    It is unicast and locally administered (IEEE 802c's range for addresses given out by hand).
    """
    digest = hashlib.sha256(b"moonhost mac " + identity.encode()).digest()
    return bytes([digest[0] & 0xF0 | 0x02]) + digest[1:MAC_BYTES]


def format_mac(mac: bytes) -> str:
    """Write a hardware address as ``/serverinfo`` has it: ``02:00:5e:10:00:01``."""
    return mac.hex(":")


def parse_mac(text: str) -> bytes:
    """Read the hardware address of one machine, with colons or dashes; raises `Malformed`."""
    if not _MAC.fullmatch(text):
        raise Malformed("bad_mac", 'A hardware address is written as in "02:00:5e:10:00:01".')
    mac = bytes.fromhex(text.replace(":", "").replace("-", ""))
    if mac[0] & 1 or not any(mac):
        raise Malformed("bad_mac", "That hardware address is not one of a single machine.")
    return mac
