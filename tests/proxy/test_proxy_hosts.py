from __future__ import annotations

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
import trio
import trio.testing
from proxy_fakes import BACKEND, FakeStore, FakeTunnel, identity, new_fleet, serve_http, serving

from moonlight.http import HttpRequest, HttpResponse, Query
from moonlight.tls import client_context, server_context
from proxy.errors import HostIdentityChanged, HostUnavailable
from proxy.fleet import Fleet
from proxy.hosts import HostRequest, ask, ask_xml
from revdial.errors import DialRefused, TunnelClosed

Host = Callable[[trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]], Awaitable[None]]

REQUEST = HostRequest("/serverinfo", Query.of(("uniqueid", "1")), "s1", timeout_s=10)


@pytest.fixture
async def tunnel(nursery: trio.Nursery) -> FakeTunnel:
    return FakeTunnel(nursery)


@pytest.fixture
async def fleet(tunnel: FakeTunnel) -> AsyncIterator[Fleet]:
    fleet = new_fleet(FakeStore())
    async with serving(fleet, tunnel):
        yield fleet


def play(tunnel: FakeTunnel, host: Host) -> None:
    async def on_stream(name: str, service: str, stream: trio.StapledStream) -> None:  # type: ignore[type-arg]
        await host(stream)

    tunnel.on_stream = on_stream


def says(data: bytes, *, then_close: bool = True) -> Host:
    async def host(stream: trio.abc.Stream) -> None:
        await stream.receive_some(65_536)
        try:
            await stream.send_all(data)
            if then_close:
                await stream.aclose()
        except trio.BrokenResourceError:
            return

    return host


async def reason_of(fleet: Fleet, tls: ssl.SSLContext | None = None) -> str:
    with pytest.raises(HostUnavailable) as caught:
        await ask_xml(fleet, BACKEND, REQUEST, tls)
    assert BACKEND in str(caught.value)
    return caught.value.reason


async def test_a_host_is_asked_by_its_name_and_as_from_the_origin(
    fleet: Fleet, tunnel: FakeTunnel
) -> None:
    seen: list[HttpRequest] = []

    async def answer(request: HttpRequest) -> tuple[int, bytes]:
        seen.append(request)
        return 200, b"hello"

    play(tunnel, lambda stream: serve_http(stream, answer))
    assert await ask(fleet, BACKEND, REQUEST, None) == HttpResponse(
        200, b"hello", "application/xml"
    )
    assert tunnel.dials == [("wolf", "http", "s1", None)]
    assert (seen[0].path, seen[0].query.encode()) == ("/serverinfo", "uniqueid=1")


async def test_the_first_of_two_answers_counts(fleet: Fleet, tunnel: FakeTunnel) -> None:
    stray = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
    play(tunnel, says(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok" + stray))
    assert (await ask(fleet, BACKEND, REQUEST, None)).body == b"ok"


async def test_a_silent_host_is_given_up_in_time(
    fleet: Fleet, tunnel: FakeTunnel, autojump_clock: trio.testing.MockClock
) -> None:
    async def silent(stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    play(tunnel, silent)
    assert await reason_of(fleet) == "host_timeout"
    assert trio.current_time() == REQUEST.timeout_s


async def test_a_host_that_drips_is_given_up_in_time(
    fleet: Fleet, tunnel: FakeTunnel, autojump_clock: trio.testing.MockClock
) -> None:
    async def drip(stream: trio.abc.Stream) -> None:
        try:
            while True:
                await stream.send_all(b"H")
                await trio.sleep(1)
        except trio.BrokenResourceError:
            return

    play(tunnel, drip)
    assert await reason_of(fleet) in {"host_timeout", "bad_answer"}
    assert trio.current_time() <= REQUEST.timeout_s


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"", "no_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nok", "answer_cut_short"),
        (b"\x00\xff\x13\r\n\r\n", "bad_answer"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", "bad_xml"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000, "answer_too_large"),
        (b"HTTP/1.1 200 OK\r\n\r\n" + b"<root>" * 200_000, "answer_too_large"),
        (b"HTTP/1.1 200 OK\r\n\r\n<!DOCTYPE r [<!ENTITY a 'b'>]><root/>", "bad_xml"),
    ],
    ids=["nothing", "cut short", "noise", "no XML", "endless head", "endless body", "entities"],
)
async def test_answers_that_are_none(
    fleet: Fleet, tunnel: FakeTunnel, answer: bytes, reason: str
) -> None:
    play(tunnel, says(answer))
    assert await reason_of(fleet) == reason


async def test_a_connection_that_breaks(fleet: Fleet, tunnel: FakeTunnel) -> None:
    async def broken(stream: trio.abc.Stream) -> None:
        await stream.aclose()

    play(tunnel, broken)
    assert await reason_of(fleet) in {"host_connection_lost", "no_answer"}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(DialRefused("host_down", "no"), "host_down"), (TunnelClosed(), "tunnel_closed")],
)
async def test_a_dial_that_fails(
    fleet: Fleet, tunnel: FakeTunnel, error: Exception, reason: str
) -> None:
    tunnel.refuse = error
    assert await reason_of(fleet) == reason


async def test_a_host_whose_agent_is_not_here() -> None:
    with pytest.raises(HostUnavailable, match="not connected"):
        await ask(new_fleet(FakeStore()), BACKEND, REQUEST, None)


def over_tls(name: str) -> Host:
    async def answer(request: HttpRequest) -> tuple[int, bytes]:
        return 200, b"secret"

    async def host(stream: trio.abc.Stream) -> None:
        tls = trio.SSLStream(
            stream, server_context(identity(name)), server_side=True, https_compatible=True
        )
        await serve_http(tls, answer)

    return host


async def test_a_paired_host_is_known_by_its_certificate(fleet: Fleet, tunnel: FakeTunnel) -> None:
    play(tunnel, over_tls("host"))
    tls = client_context(identity("phone"), pinned_der=identity("host").certificate.der)
    assert (await ask(fleet, BACKEND, REQUEST, tls)).body == b"secret"
    assert tunnel.dials[0][1] == "https"


async def test_a_host_with_another_certificate_is_told_from_one_that_is_away(
    fleet: Fleet, tunnel: FakeTunnel
) -> None:
    play(tunnel, over_tls("host made anew"))
    tls = client_context(identity("phone"), pinned_der=identity("host").certificate.der)
    with pytest.raises(HostIdentityChanged) as caught:
        await ask(fleet, BACKEND, REQUEST, tls)
    assert caught.value.reason == "host_identity_changed"


async def test_a_host_that_speaks_no_tls_has_not_changed_its_identity(
    fleet: Fleet, tunnel: FakeTunnel
) -> None:
    play(tunnel, says(b"HTTP/1.1 400 Bad Request\r\n\r\n"))
    tls = client_context(identity("phone"), pinned_der=identity("host").certificate.der)
    with pytest.raises(HostUnavailable) as caught:
        await ask(fleet, BACKEND, REQUEST, tls)
    assert caught.value.reason == "host_connection_lost"


async def test_a_request_shows_no_value_of_its_query() -> None:
    request = HostRequest("/launch", Query.of(("rikey", "0011223344")), "s1")
    assert "0011223344" not in repr(request)
