from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from moonlight.flows import Flow
from moonlight.ping import build_ping
from proxy.control_proof import ControlTrail, Verdict
from proxy.following import Following, Stray
from proxy.roaming import PingTrail, Refusal, RoamingLimits
from proxy.sessions import SessionId
from tests.proxy.test_proxy_control_proof import KEY, OTHER_KEY, Sealing, packet

NAT, MOBILE, STRANGER = "192.0.2.1", "198.51.100.7", "203.0.113.5"
PAYLOAD = "aaaaaaaaaaaaaaaa"


@dataclass(frozen=True)
class Place:
    ip: str
    port: int


@dataclass(eq=False)
class AFlow:
    session: SessionId
    kind: Flow
    trail: PingTrail | ControlTrail
    client_address: str = NAT
    bound_to: Place | None = None


class Edge:
    """Sessions a, b, … with a video and a control flow each."""

    def __init__(self, limits: RoamingLimits | None = None) -> None:
        self.flows: dict[SessionId, dict[Flow, AFlow]] = {}
        self.following: Following[AFlow] = Following(
            lambda session: self.flows.get(session, {}), limits or RoamingLimits()
        )

    def add(
        self, name: str, key: bytes = KEY, *, port: int = 1000, address: str = NAT
    ) -> tuple[AFlow, AFlow]:
        session = SessionId(name)
        video = AFlow(session, Flow.VIDEO, PingTrail(), address, Place(address, port))
        control = AFlow(session, Flow.CONTROL, ControlTrail(key), address, Place(address, port + 1))
        self.flows[session] = {Flow.VIDEO: video, Flow.CONTROL: control}
        for flow in (video, control):
            self.following.note_place(flow)
        return video, control


def test_control_from_a_new_port_is_followed_once_the_old_one_is_silent() -> None:
    edge, client = Edge(), Sealing()
    _, control = edge.add("a")
    control.trail.note(packet(client.next()), 10.0)
    datagram = packet(client.next())
    new = Place(NAT, 5000)
    assert edge.following.control_of(datagram, new, 10.2) is Refusal.HEARD_ELSEWHERE
    assert edge.following.control_of(datagram, new, 10.8) is control


def test_control_from_a_new_address_is_followed_once_video_is_there() -> None:
    edge, client = Edge(), Sealing()
    video, control = edge.add("a")
    control.trail.note(packet(client.next()), 10.0)
    datagram = packet(client.next())
    assert edge.following.control_of(datagram, Place(MOBILE, 1), 11.0) is Stray.UNKNOWN
    video.bound_to = Place(MOBILE, 9)
    edge.following.note_place(video)
    assert edge.following.control_of(datagram, Place(MOBILE, 1), 11.0) is control
    edge.following.forget(video)
    assert edge.following.control_of(datagram, Place(MOBILE, 1), 11.0) is Stray.UNKNOWN


def test_a_replayed_datagram_moves_nothing_even_from_behind_the_same_nat() -> None:
    edge, client = Edge(), Sealing()
    _, control = edge.add("a")
    datagram = packet(client.next())
    control.trail.note(datagram, 10.0)
    assert edge.following.control_of(datagram, Place(NAT, 5000), 20.0) is Stray.REPLAYED


def test_while_all_that_are_known_there_are_heard_nothing_is_looked_into() -> None:
    edge = Edge(RoamingLimits(max_proofs_per_source_per_s=1))
    client, other = Sealing(), Sealing(OTHER_KEY)
    _, control = edge.add("a")
    control.trail.note(packet(client.next()), 10.0)
    edge.add("b", OTHER_KEY)[1].trail.note(packet(other.next()), 10.5)
    datagram, new = packet(client.next()), Place(NAT, 5000)
    for _ in range(2):
        assert edge.following.control_of(datagram, new, 10.6) is Refusal.HEARD_ELSEWHERE
    assert edge.following.control_of(datagram, new, 11.0) is control
    assert edge.following.control_of(datagram, new, 11.0) is Stray.TOO_MANY


def test_one_that_is_heard_is_not_followed_because_another_is_silent() -> None:
    edge, client, other = Edge(), Sealing(), Sealing(OTHER_KEY)
    edge.add("a")[1].trail.note(packet(client.next()), 10.0)
    edge.add("b", OTHER_KEY)[1].trail.note(packet(other.next()), 10.5)
    datagram = packet(other.next())
    assert edge.following.control_of(datagram, Place(NAT, 5), 11.0) is Refusal.HEARD_ELSEWHERE


def test_of_many_sessions_behind_one_address_the_right_one_is_found() -> None:
    edge = Edge()
    keys = {name: bytes([number] * 16) for number, name in enumerate("abcdefgh")}
    clients = {name: Sealing(key) for name, key in keys.items()}
    controls = {name: edge.add(name, key)[1] for name, key in keys.items()}
    for name, client in clients.items():
        controls[name].trail.note(packet(client.next()), 10.0)
    for name, client in clients.items():
        datagram = packet(client.next())
        assert edge.following.control_of(datagram, Place(NAT, 5000), 11.0) is controls[name]
    foreign = packet(Sealing(bytes([99] * 16)).next())
    assert edge.following.control_of(foreign, Place(NAT, 5000), 11.0) is Stray.UNPROVEN


def test_what_fits_two_sessions_is_nobodys() -> None:
    """A client chooses its key, and may choose one twice."""
    edge, client = Edge(), Sealing()
    for name in "ab":
        edge.add(name)[1].trail.note(packet(client.next()), 10.0)
    assert edge.following.control_of(packet(client.next()), Place(NAT, 5), 11.0) is Stray.AMBIGUOUS


@pytest.mark.parametrize(("pinged_at", "followed"), [(10.5, True), (8.0, False)])
def test_unsealed_control_is_followed_where_a_ping_vouches_for_it(
    pinged_at: float, followed: bool
) -> None:
    edge = Edge()
    video, control = edge.add("a")
    control.trail.note(packet(b"old", first=1), 10.0)
    video.trail.note(build_ping(PAYLOAD, 1), pinged_at)
    found = edge.following.control_of(packet(b"new", first=2), Place(NAT, 5000), 11.0)
    assert found is (control if followed else Stray.UNPROVEN)


def test_unsealed_control_that_fits_two_sessions_is_nobodys() -> None:
    edge = Edge()
    for name in "ab":
        video, control = edge.add(name)
        control.trail.note(packet(b"old", first=1), 10.0)
        video.trail.note(build_ping(PAYLOAD, 1), 10.5)
    found = edge.following.control_of(packet(b"new", first=2), Place(NAT, 5000), 11.0)
    assert found is Stray.AMBIGUOUS


def test_only_so_many_datagrams_of_a_source_are_looked_into_and_none_of_strangers() -> None:
    edge = Edge(RoamingLimits(max_proofs_per_source_per_s=3))
    _, control = edge.add("a")
    client = Sealing()
    control.trail.note(packet(client.next()), 10.0)
    foreign = packet(Sealing(OTHER_KEY).next())
    source = Place(NAT, 5000)
    found = [edge.following.control_of(foreign, source, 11.0) for _ in range(5)]
    assert found == [Stray.UNPROVEN] * 3 + [Stray.TOO_MANY] * 2
    assert edge.following.control_of(foreign, Place(STRANGER, 1), 11.0) is Stray.UNKNOWN
    assert edge.following.control_of(b"\x00\x09 noise", Place(NAT, 6000), 11.0) is Stray.UNKNOWN
    # Somebody else's flood behind the same NAT takes nothing from the client.
    assert edge.following.control_of(packet(client.next()), Place(NAT, 5001), 11.0) is control


def test_a_flood_among_many_sessions_that_have_not_connected_yet_costs_a_bounded_time() -> None:
    limits = RoamingLimits()
    edge = Edge(limits)
    tried = 0
    for number in range(50):
        _, control = edge.add(f"s{number}", bytes([number] * 16))
        judge = control.trail.judge

        def count(datagram: bytes, judge: Callable[[bytes], Verdict] = judge) -> Verdict:
            nonlocal tried
            tried += 1
            return judge(datagram)

        control.trail.judge = count  # type: ignore[method-assign]
    foreign = packet(Sealing(OTHER_KEY).next())
    for number in range(1_000):
        edge.following.control_of(foreign, Place(NAT, 6_000 + number), 11.0)
    assert tried == limits.max_proofs_per_s


def test_a_connect_binds_a_flow_and_moves_it_only_until_the_client_has_shown_its_key() -> None:
    edge, client = Edge(), Sealing()
    _, control = edge.add("a")
    elsewhere = Place(NAT, 5000)
    assert edge.following.refusal(control, b"connect", elsewhere, 10.0) is None
    assert edge.following.refusal(control, b"connect", Place(NAT, 1001), 10.0) is None
    control.trail.note(packet(b"not sealed"), 10.0)
    refusal = edge.following.refusal(control, b"connect", elsewhere, 10.1)
    assert refusal is Refusal.HEARD_ELSEWHERE
    control.trail.note(packet(client.next()), 10.2)
    assert edge.following.refusal(control, b"connect", elsewhere, 99.0) is Refusal.CONNECTED
    control.bound_to = None
    assert edge.following.refusal(control, b"connect", elsewhere, 99.0) is None


def test_a_control_flow_whose_key_is_not_known_moves_by_connect_alone() -> None:
    edge = Edge()
    video, control = edge.add("a")
    control.trail = PingTrail()
    elsewhere = Place(NAT, 5000)
    assert edge.following.refusal(control, b"connect", elsewhere, 10.0) is None
    assert edge.following.control_of(packet(b"x"), elsewhere, 10.0) is Stray.UNKNOWN
    assert edge.following.refusal(video, build_ping(PAYLOAD, 1), elsewhere, 10.0) is None


def test_video_comes_home_to_where_control_is_proven() -> None:
    edge, client = Edge(), Sealing()
    video, control = edge.add("a")
    video.bound_to = Place(STRANGER, 1)
    video.trail.note(build_ping(PAYLOAD, 1), 10.0)
    home, mobile = Place(NAT, 1), Place(MOBILE, 1)
    ping = build_ping(PAYLOAD, 2)
    assert edge.following.refusal(video, ping, home, 10.1) is None
    assert edge.following.refusal(video, ping, mobile, 10.1) is Refusal.HEARD_ELSEWHERE
    control.bound_to = Place(MOBILE, 1001)
    control.trail.note(packet(client.next()), 10.0)
    assert edge.following.refusal(video, ping, mobile, 10.1) is None
    assert edge.following.refusal(video, ping, home, 10.1) is Refusal.HEARD_ELSEWHERE


def test_a_forged_ping_far_ahead_keeps_video_away_only_while_control_is_silent() -> None:
    """Whoever reads pings and writes any source address can make the client's own look old."""
    edge, client = Edge(), Sealing()
    video, control = edge.add("a")
    home, stranger = Place(NAT, 1000), Place(STRANGER, 1)
    video.trail.note(build_ping(PAYLOAD, 10), 10.0)
    video.trail.note(build_ping(PAYLOAD, 1_000_000), 10.1)  # with the client's address
    video.trail.note(build_ping(PAYLOAD, 11), 10.5)
    forged = build_ping(PAYLOAD, 1_000_001)
    assert edge.following.refusal(video, forged, stranger, 13.0) is None
    video.bound_to = stranger
    video.trail.note(forged, 13.0)
    own = build_ping(PAYLOAD, 16)
    assert edge.following.refusal(video, own, home, 13.1) is Refusal.REPLAYED
    control.trail.note(packet(client.next()), 13.1)
    assert edge.following.refusal(video, own, home, 16.0) is Refusal.REPLAYED
    control.trail.note(packet(client.next()), 16.0)
    assert edge.following.refusal(video, own, home, 16.1) is None
    video.bound_to = home
    video.trail.note(own, 16.1)
    assert video.trail.heard_at == 16.1
    forged = build_ping(PAYLOAD, 1_000_002)
    assert edge.following.refusal(video, forged, stranger, 16.2) is Refusal.HEARD_ELSEWHERE


def test_without_control_home_is_where_the_session_was_launched() -> None:
    edge = Edge()
    video, control = edge.add("a")
    del edge.flows[SessionId("a")][Flow.CONTROL]
    edge.following.forget(control)
    video.bound_to = Place(STRANGER, 1)
    video.trail.note(build_ping(PAYLOAD, 1), 10.0)
    assert edge.following.refusal(video, build_ping(PAYLOAD, 2), Place(NAT, 1), 10.1) is None


def test_a_flow_stays_where_its_session_is_heard() -> None:
    edge, client = Edge(), Sealing()
    video, control = edge.add("a")
    video.trail.note(build_ping(PAYLOAD, 1), 10.0)
    control.trail.note(packet(client.next()), 10.9)
    ping, elsewhere = build_ping(PAYLOAD, 2), Place(MOBILE, 1)
    assert edge.following.refusal(video, ping, elsewhere, 11.0) is Refusal.HEARD_ELSEWHERE
    assert edge.following.refusal(video, ping, elsewhere, 12.0) is None


def test_a_flow_that_is_bound_nowhere_is_known_nowhere() -> None:
    edge = Edge()
    video, control = edge.add("a")
    video.bound_to = None
    edge.following.forget(control)
    edge.following.forget(video)
    edge.following.note_place(video)
    assert edge.following.control_of(packet(b"x"), Place(NAT, 1), 10.0) is Stray.UNKNOWN
