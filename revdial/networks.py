"""Whom a limit "per address" is about: one IPv4 address, or one IPv6 network of a household."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network, ip_address
from typing import Final

# Whoever has one IPv6 address has at least 2**64 of them.
_household_prefix: Final = 64


def network_of(address: str) -> str:
    """Return what to count `address` under; text that is no address counts as itself."""
    try:
        parsed = ip_address(plain_address(address))
    except ValueError:
        return address
    if isinstance(parsed, IPv6Address):
        return str(IPv6Network((int(parsed), _household_prefix), strict=False))
    return str(parsed)


def plain_address(address: str) -> str:
    """Write an address the one way it is compared and shown: no scope, IPv4-mapped as IPv4.

    Raises ValueError for text that is no address.
    """
    parsed = ip_address(address.partition("%")[0])
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)
