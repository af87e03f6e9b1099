"""Where clients and regions are, and how far apart.

A client's place comes from the first of these that tells: a network that the configuration pins to
a region, the edge's own region for addresses that are nowhere on earth (private, loopback), the
database, and the edge's own region for what the database does not know.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

earth_radius_km = 6_371.0
max_known_addresses = 16_384
"""Of which it is kept what the configuration says of them; some 500 bytes each."""
nowhere_km = math.inf
"""The distance between two places of which one is not known."""


@dataclass(frozen=True, slots=True)
class Place:
    """A point on earth, in degrees."""

    latitude: float
    longitude: float

    def distance_km(self, other: Place) -> float:
        """Return the great-circle distance, by the haversine formula: exact for near points too."""
        one, two = math.radians(self.latitude), math.radians(other.latitude)
        north = math.sin((two - one) / 2)
        east = math.sin(math.radians(other.longitude - self.longitude) / 2)
        chord = north * north + math.cos(one) * math.cos(two) * east * east
        return 2 * earth_radius_km * math.asin(min(1.0, math.sqrt(chord)))


class LocatedBy(StrEnum):
    """What told a client's place."""

    PINNED_NETWORK = "pinned_network"
    DATABASE = "database"
    EDGE_REGION = "edge_region"
    """Private, or unknown to the database: counts as the edge's own region."""
    NOTHING = "nothing"
    """Nor does the edge say which region is its own."""


@dataclass(frozen=True, slots=True)
class ClientPlace:
    """Where a client is: a region, a place, both, or neither."""

    located_by: LocatedBy = LocatedBy.NOTHING
    region: str | None = None
    place: Place | None = None

    def distance_km(self, region: str, place: Place | None) -> float:
        """Return how far it is to a region that is at `place`: `nowhere_km` if nobody knows."""
        if region == self.region:
            return 0.0
        if self.place is None or place is None:
            return nowhere_km
        return self.place.distance_km(place)


@dataclass(frozen=True, slots=True)
class Region:
    """A named place, and the networks whose clients count as being there."""

    name: str
    place: Place
    networks: tuple[Network, ...] = ()


class Atlas:
    """The configured regions; `edge_region` is the name of the one that the edge is in.

    No network may be pinned to two regions: which of them would win is not said.
    """

    def __init__(self, regions: Iterable[Region] = (), edge_region: str | None = None) -> None:
        regions = tuple(regions)
        self._places = {region.name: region.place for region in regions}
        self._edge_region = edge_region
        # By version and prefix length, the longest first: the most particular network wins.
        pinned: dict[tuple[int, int], dict[int, str]] = {}
        for region in regions:
            for network in region.networks:
                of_length = pinned.setdefault((network.version, network.prefixlen), {})
                of_length[int(network.network_address)] = region.name
        # Clients come again, and reading an address takes longer than choosing its backend.
        self._configured = functools.lru_cache(maxsize=max_known_addresses)(self._configure)
        self._pinned = sorted(pinned.items(), key=lambda entry: entry[0], reverse=True)

    @property
    def regions(self) -> Mapping[str, Place]:
        """The configured regions' places, by name."""
        return self._places

    def locate(self, address: str, look_up: Callable[[Address], Place | None]) -> ClientPlace:
        """Tell where a client with this IP address is; `look_up` asks the database.

        Text that is no address counts as unknown. Only public addresses are looked up.
        """
        parsed, pinned = self._configured(address)
        if pinned is not None:
            return pinned
        place = None if parsed is None else look_up(parsed)
        if place is not None:
            return ClientPlace(LocatedBy.DATABASE, None, place)
        return self._at_the_edge()

    def _configure(self, text: str) -> tuple[Address | None, ClientPlace | None]:
        """Give an address that the database may know, and what needs no database."""
        try:
            address = plain_address(text)
        except ValueError:
            return None, None
        region = self._pinned_region(address)
        if region is not None:
            return address, ClientPlace(LocatedBy.PINNED_NETWORK, region, self._places[region])
        return (address if _is_somewhere(address) else None), None

    def _pinned_region(self, address: Address) -> str | None:
        number, bits = int(address), address.max_prefixlen
        for (version, length), networks in self._pinned:
            if version == address.version:
                region = networks.get(number >> (bits - length) << (bits - length))
                if region is not None:
                    return region
        return None

    def _at_the_edge(self) -> ClientPlace:
        if self._edge_region is None:
            return ClientPlace()
        place = self._places.get(self._edge_region)
        return ClientPlace(LocatedBy.EDGE_REGION, self._edge_region, place)


def plain_address(text: str) -> Address:
    """Read an IP address; IPv4 in IPv6 clothes is IPv4, a zone (``%eth0``) is left out.

    >>> plain_address("::ffff:192.0.2.1")
    IPv4Address('192.0.2.1')

    Raises:
        ValueError: it is none.

    """
    return without_clothes(ip_address(text))


def without_clothes(address: Address) -> Address:
    """Return the IPv4 address that an IPv4-mapped one holds; any other without its zone."""
    if isinstance(address, IPv4Address):
        return address
    return address.ipv4_mapped or IPv6Address(int(address))


def _is_somewhere(address: Address) -> bool:
    # `is_global` alone holds for groups and for IPv6's old private addresses, fec0::/10.
    site_local = isinstance(address, IPv6Address) and address.is_site_local
    return address.is_global and not address.is_multicast and not site_local
