"""Where clients are: the most particular word wins, and distances are those of a sphere."""

from __future__ import annotations

import math
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.geography import (
    Address,
    Atlas,
    ClientPlace,
    LocatedBy,
    Network,
    Place,
    Region,
    earth_radius_km,
    nowhere_km,
    plain_address,
)

FRANKFURT = Place(50.11, 8.68)
VIRGINIA = Place(38.95, -77.45)
LONDON = Place(51.51, -0.13)
HALF_AROUND_KM = math.pi * earth_radius_km

places = st.builds(Place, st.floats(-90, 90), st.floats(-180, 180))


def nothing(_address: Address) -> Place | None:
    return None


def london(_address: Address) -> Place | None:
    return LONDON


def not_asked(address: Address) -> Place | None:
    raise AssertionError(f"the database was asked for {address}")


def atlas(*networks: str, edge_region: str | None = "frankfurt") -> Atlas:
    """Two regions; `networks` are pinned to Virginia."""
    pinned: list[Network] = [
        IPv6Network(text) if ":" in text else IPv4Network(text) for text in networks
    ]
    return Atlas(
        [Region("frankfurt", FRANKFURT), Region("virginia", VIRGINIA, tuple(pinned))], edge_region
    )


@given(places, places)
def test_a_distance_is_the_same_both_ways_and_at_most_half_around(one: Place, two: Place) -> None:
    assert one.distance_km(two) == pytest.approx(two.distance_km(one), abs=1e-6)
    assert 0 <= one.distance_km(two) <= HALF_AROUND_KM


@given(places)
def test_a_place_is_at_no_distance_from_itself_and_half_around_from_the_other_side(
    place: Place,
) -> None:
    assert place.distance_km(place) == 0
    east = place.longitude + (180 if place.longitude < 0 else -180)
    assert place.distance_km(Place(-place.latitude, east)) == pytest.approx(HALF_AROUND_KM)


@given(places, places, places)
def test_no_detour_is_shorter(one: Place, two: Place, three: Place) -> None:
    detour = one.distance_km(three) + three.distance_km(two)
    # Near the other side of the earth the sine is flat, which costs some metres.
    assert one.distance_km(two) <= detour + 0.01


def test_known_distances() -> None:
    assert FRANKFURT.distance_km(VIRGINIA) == pytest.approx(6_550, abs=30)
    assert FRANKFURT.distance_km(LONDON) == pytest.approx(637, abs=5)
    assert Place(0, 179.5).distance_km(Place(0, -179.5)) == pytest.approx(111.2, abs=0.1)


def test_a_pinned_network_wins_over_the_database_also_for_private_addresses() -> None:
    pinned = ClientPlace(LocatedBy.PINNED_NETWORK, "virginia", VIRGINIA)
    of = atlas("10.1.0.0/16", "81.2.69.0/24", "fd00:1::/32")
    for address in ("10.1.2.3", "81.2.69.160", "fd00:1::5", "::ffff:10.1.2.3"):
        assert of.locate(address, not_asked) == pinned


def test_a_public_address_is_where_the_database_says() -> None:
    assert atlas().locate("81.2.69.160", london) == ClientPlace(LocatedBy.DATABASE, None, LONDON)


@pytest.mark.parametrize(
    "address",
    [
        *("10.0.0.1", "172.31.255.255", "192.168.1.1", "127.0.0.1", "169.254.1.1", "0.0.0.0"),
        *("100.64.0.1", "100.127.255.255", "224.0.0.1", "239.1.1.1", "255.255.255.255"),
        *("192.0.2.1", "198.18.0.1", "::", "::1", "fe80::1", "fe80::1%eth0", "fd00::1"),
        *("fc00::1", "fec0::1", "ff0e::1", "2001:db8::1", "::ffff:10.0.0.1"),
        *("::ffff:100.64.0.1", "no address", "", "unknown"),
    ],
)
def test_what_is_nowhere_on_earth_is_in_the_edge_region_and_not_looked_up(address: str) -> None:
    where = atlas().locate(address, not_asked)
    assert where == ClientPlace(LocatedBy.EDGE_REGION, "frankfurt", FRANKFURT)


@pytest.mark.parametrize(
    "address",
    ["100.63.255.255", "100.128.0.0", "172.32.0.1", "2a00:1450::1", "::ffff:8.8.8.8", "8.8.8.8"],
)
def test_their_neighbours_are_looked_up(address: str) -> None:
    assert atlas().locate(address, london).located_by is LocatedBy.DATABASE


def test_the_database_is_asked_for_the_ipv4_address_in_ipv6_clothes() -> None:
    asked: list[Address] = []

    def look_up(address: Address) -> Place | None:
        asked.append(address)
        return None

    atlas().locate("::ffff:8.8.8.8", look_up)
    assert asked == [IPv4Address("8.8.8.8")]


def test_what_the_database_does_not_know_is_in_the_edge_region_if_there_is_one() -> None:
    where = atlas().locate("8.8.8.8", nothing)
    assert where == ClientPlace(LocatedBy.EDGE_REGION, "frankfurt", FRANKFURT)
    assert atlas(edge_region=None).locate("8.8.8.8", nothing) == ClientPlace()


def test_an_edge_region_without_a_configured_place_still_is_a_region() -> None:
    where = Atlas(edge_region="home").locate("10.0.0.1", nothing)
    assert where == ClientPlace(LocatedBy.EDGE_REGION, "home", None)
    assert where.distance_km("home", None) == 0


def test_the_regions_are_there_to_read() -> None:
    assert atlas().regions == {"frankfurt": FRANKFURT, "virginia": VIRGINIA}


def test_how_far_a_client_is_from_a_region() -> None:
    pinned = ClientPlace(LocatedBy.PINNED_NETWORK, "virginia", VIRGINIA)
    assert pinned.distance_km("virginia", LONDON) == 0
    assert pinned.distance_km("elsewhere", None) == nowhere_km
    assert pinned.distance_km("elsewhere", LONDON) == VIRGINIA.distance_km(LONDON)
    assert ClientPlace().distance_km("virginia", VIRGINIA) == nowhere_km


def test_plain_addresses() -> None:
    assert plain_address("192.0.2.1") == IPv4Address("192.0.2.1")
    assert plain_address("::ffff:192.0.2.1%eth0") == IPv4Address("192.0.2.1")
    assert plain_address("fe80::1%eth0") == IPv6Address("fe80::1")
    for text in ("192.0.2.1%eth0", "fe80::1%", "host", "", "192.0.2.1:80", "[::1]"):
        with pytest.raises(ValueError, match=r"address|permitted"):
            plain_address(text)


def networks_around(number: int, bits: int) -> st.SearchStrategy[tuple[int, int]]:
    """Networks that hold `number` or differ from it in a late bit, so that many overlap."""
    return st.tuples(st.integers(0, bits), st.integers(0, bits - 1)).map(
        lambda drawn: (
            (number ^ (1 << drawn[1])) >> (bits - drawn[0]) << (bits - drawn[0]),
            drawn[0],
        )
    )


@given(st.data(), st.sampled_from([32, 128]))
def test_the_most_particular_pinned_network_wins(data: st.DataObject, bits: int) -> None:
    number = data.draw(st.integers(0, 2**bits - 1).map(lambda drawn: drawn | 1 << (bits - 2)))
    drawn = data.draw(st.lists(networks_around(number, bits), max_size=12, unique=True))
    address: Address = IPv4Address(number) if bits == 32 else IPv6Address(number)
    pinned: list[Network] = [IPv4Network(at) if bits == 32 else IPv6Network(at) for at in drawn]
    regions = [
        Region(f"r{index}", Place(index, 0), (network,)) for index, network in enumerate(pinned)
    ]
    # Of the other version, and thus never one that holds the address.
    other: Network = IPv6Network("::/0") if bits == 32 else IPv4Network("0.0.0.0/0")
    regions.append(Region("other", FRANKFURT, (other,)))

    where = Atlas(regions).locate(str(address), nothing)

    holding = [index for index, network in enumerate(pinned) if address in network]
    best = max(holding, key=lambda index: pinned[index].prefixlen, default=None)
    assert where.region == (None if best is None else f"r{best}")
