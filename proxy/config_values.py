"""What single settings of the edge's configuration may be: ports, names, networks, times."""

from __future__ import annotations

import re
from ipaddress import IPv6Network, ip_address, ip_network
from typing import Annotated

from pydantic import AfterValidator, Field, PlainValidator

from backends.apps import max_title_characters, normalise_title
from backends.errors import StoreError
from backends.geography import Network
from backends.model import is_valid_name
from backends.redis_address import parse_redis_url
from proxy.access import everybody_else

MAX_PORT = 65_535
MAX_RTSP_PORTS = 1_024
MAX_SECONDS = 10 * 365 * 24 * 3600
MAX_GEO_DATABASES = 16
MAX_PINNED_NETWORKS = 4_096
"""Of all regions together."""
MAX_PROXY_NETWORKS = 256
"""Of one kind of listener; each new connection is looked up in all of them."""

_RANGE = re.compile(r"([0-9]{1,5})(?:-([0-9]{1,5}))?")
_HOSTNAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]{0,62})(?:\.[A-Za-z0-9_-]{1,63})*\.?")

Port = Annotated[int, Field(ge=1, le=MAX_PORT)]
Seconds = Annotated[float, Field(gt=0, lt=MAX_SECONDS, allow_inf_nan=False)]
Count = Annotated[int, Field(ge=1)]


def _port_range(text: str) -> str:
    match = _RANGE.fullmatch(text)
    if match is None:
        raise ValueError('write a port, or a range of ports as in "48010-48073"')
    low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= MAX_PORT:
        raise ValueError(f"ports go from 1 to {MAX_PORT}, the lower one first")
    if high - low >= MAX_RTSP_PORTS:
        raise ValueError(f"at most {MAX_RTSP_PORTS} ports")
    return text


def _address(text: str) -> str:
    try:
        ip_address(text)
    except ValueError:
        raise ValueError('write an IP address, as in "0.0.0.0" or "::"') from None
    return text


def _hostname(text: str) -> str:
    # The certificate of the agents' port is made for it, and agents look it up.
    if not _HOSTNAME.fullmatch(text):
        try:
            ip_address(text)
        except ValueError:
            raise ValueError("write a host name in plain ASCII letters, or an IP address") from None
    return text


def _region_name(text: str) -> str:
    if not is_valid_name(text):
        raise ValueError("name a region with 1-64 letters, digits, dots, dashes and underscores")
    return text


def _network(value: object) -> Network:
    try:
        network = ip_network(str(value), strict=False)
    except ValueError:
        raise ValueError('write a network, as in "10.1.0.0/16" or "fd00:1::/32"') from None
    if network.network_address != ip_address(str(value).partition("/")[0]):
        raise ValueError(f'the network of this address is "{network}": write that')
    mapped = network.network_address.ipv4_mapped if isinstance(network, IPv6Network) else None
    if mapped is not None:
        # Clients at such addresses count as IPv4.
        raise ValueError(f'write the IPv4 network "{mapped}/{network.prefixlen - 96}"')
    return network


def _redis_url(url: str) -> str:
    try:
        address = parse_redis_url(url)
    except StoreError as error:
        raise ValueError(str(error)) from None
    if address.password is not None:
        raise ValueError(
            "the password does not belong into the URL: put it into a file and name that as "
            "redis_password_file, or set MOONHOST_PROXY__STORE__REDIS_PASSWORD"
        )
    return url


PortRange = Annotated[str, AfterValidator(_port_range)]
Address = Annotated[str, AfterValidator(_address)]
Addresses = Annotated[tuple[Address, ...], Field(min_length=1)]
RegionName = Annotated[str, AfterValidator(_region_name)]
PinnedNetwork = Annotated[Network, PlainValidator(_network)]
ProxyNetworks = Annotated[tuple[PinnedNetwork, ...], Field(max_length=MAX_PROXY_NETWORKS)]
Hostname = Annotated[str, Field(min_length=1, max_length=253), AfterValidator(_hostname)]
RedisUrl = Annotated[str, AfterValidator(_redis_url)]


Share = Annotated[float, Field(gt=0, le=1)]


def _user_name(text: str) -> str:
    if text != everybody_else and not is_valid_name(text):
        raise ValueError(
            f'write 1-64 letters, digits, dots or dashes, or "{everybody_else}" for all others'
        )
    return text


def _app_title(text: str) -> str:
    if not normalise_title(text):
        raise ValueError("write the title of an app")
    return text


UserName = Annotated[str, AfterValidator(_user_name)]
AppTitle = Annotated[str, Field(max_length=max_title_characters), AfterValidator(_app_title)]
