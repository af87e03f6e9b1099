from __future__ import annotations

from ipaddress import ip_network

import pytest
import trio
import trio.testing

from revdial.proxies import TrustedProxies, header_timeout_s
from revdial.proxy_protocol import HeaderFault, HeaderRefused, Route

V1 = b"PROXY TCP4 192.0.2.1 198.51.100.7 56324 443\r\n"
V2 = bytes.fromhex("0d0a0d0a000d0a515549540a21110010c0000201c6336407dc0401bb") + b"\x04\x00\x01x"
LOCAL_V2 = V2[:12] + bytes.fromhex("20000000")
ROUTE = Route("192.0.2.1", 56_324, "198.51.100.7", 443)


@pytest.mark.parametrize(
    ("address", "trusted"),
    [
        ("10.9.9.9", True),
        ("::ffff:10.9.9.9", True),
        ("11.0.0.1", False),
        ("fd00:1::5", True),
        ("fd00:2::5", False),
        ("fe80::5%eth0", True),
        ("", False),
    ],
)
def test_only_configured_networks_speak_for_others(address: str, trusted: bool) -> None:
    networks = [ip_network(each) for each in ("10.0.0.0/8", "fd00:1::/32", "fe80::/10")]
    assert TrustedProxies(networks).speak_for_others(address) is trusted
    assert not TrustedProxies().speak_for_others(address)


@pytest.mark.parametrize(
    ("header", "route"), [(V1, ROUTE), (V2, ROUTE), (b"PROXY UNKNOWN\r\n", None), (LOCAL_V2, None)]
)
@pytest.mark.parametrize("one_by_one", [False, True])
async def test_the_header_is_read_and_the_stream_begins_right_behind_it(
    header: bytes, route: Route | None, one_by_one: bool
) -> None:
    proxy, ours = trio.testing.memory_stream_one_way_pair()
    if one_by_one:
        ours = trio.testing.MemoryReceiveStream()
        for byte in header + b"the stream":
            ours.put_data(bytes([byte]))
    else:
        await proxy.send_all(header + b"the stream")
    announced = await TrustedProxies().read_header(ours)
    assert announced is not None
    assert announced.route == route
    rest = b""
    with trio.fail_after(5):
        while rest != b"the stream":
            rest += await ours.receive_some()


@pytest.mark.parametrize("before_the_end", [b"", b"PROXY TCP4 1"])
async def test_who_leaves_without_a_word_has_only_looked_and_who_leaves_within_is_refused(
    before_the_end: bytes,
) -> None:
    ours = trio.testing.MemoryReceiveStream()
    ours.put_data(before_the_end)
    ours.put_eof()
    if not before_the_end:
        assert await TrustedProxies().read_header(ours) is None
        return
    with pytest.raises(HeaderRefused) as caught:
        await TrustedProxies().read_header(ours)
    assert caught.value.fault is HeaderFault.CUT_SHORT


@pytest.mark.parametrize("begun", [b"", V1[:-1]])
async def test_a_header_has_only_so_long_in_all(
    begun: bytes, autojump_clock: trio.testing.MockClock, nursery: trio.Nursery
) -> None:
    proxy, ours = trio.testing.memory_stream_one_way_pair()

    async def dribble() -> None:
        for byte in begun:
            await trio.sleep(header_timeout_s / len(begun) * 0.99)
            await proxy.send_all(bytes([byte]))

    nursery.start_soon(dribble)
    with pytest.raises(HeaderRefused) as caught:
        await TrustedProxies().read_header(ours)
    assert caught.value.fault is HeaderFault.TOO_SLOW
    assert trio.current_time() == pytest.approx(header_timeout_s)
