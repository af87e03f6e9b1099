from __future__ import annotations

import errno
import socket
from typing import Any

import pytest
import structlog.testing
import trio

from proxy import listening
from proxy.config import Agents, Listen
from proxy.doors import open_doors
from proxy.errors import StartFailed
from proxy.listening import addresses_here

BOTH = ("0.0.0.0", "::")


@pytest.fixture
def no_ipv6(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a machine whose kernel has none."""
    made = socket.socket

    def without(family: int = socket.AF_INET, *rest: Any, **named: Any) -> socket.socket:
        if family == socket.AF_INET6:
            raise OSError(errno.EAFNOSUPPORT, "Address family not supported by protocol")
        return made(family, *rest, **named)

    monkeypatch.setattr(listening.socket, "socket", without)


def test_both_families_are_the_default() -> None:
    with structlog.testing.capture_logs() as logged:
        assert addresses_here(Listen(), Agents()) == (BOTH, BOTH)
    assert not logged


@pytest.mark.usefixtures("no_ipv6")
def test_a_machine_without_ipv6_is_told_of_once_and_only_in_the_defaults() -> None:
    explicit = Listen(addresses=("::", "127.0.0.1"))
    with structlog.testing.capture_logs() as logged:
        assert addresses_here(Listen(), Agents()) == (("0.0.0.0",), ("0.0.0.0",))
    assert [each["event"] for each in logged] == ["ipv6_unavailable"]
    with structlog.testing.capture_logs() as logged:
        assert addresses_here(explicit, Agents(addresses=("::",))) == (explicit.addresses, ("::",))
    assert not logged
    assert addresses_here(explicit, Agents()) == (explicit.addresses, ("0.0.0.0",))


@pytest.mark.parametrize("number", [errno.EADDRNOTAVAIL, errno.EMFILE])
def test_only_a_missing_family_is_no_error(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    class Unbindable(socket.socket):
        def bind(self, address: object) -> None:
            raise OSError(number, "no")

    monkeypatch.setattr(listening.socket, "socket", Unbindable)
    if number == errno.EADDRNOTAVAIL:
        assert addresses_here(Listen()) == (("0.0.0.0",),)
        return
    with pytest.raises(OSError, match="no"):
        addresses_here(Listen())


async def test_an_address_that_was_asked_for_must_be_there() -> None:
    with pytest.raises(StartFailed, match="addresses that this machine has"):
        await open_doors(["192.0.2.1"], 1)


async def test_one_port_is_open_in_both_families_at_once(own_ports: range) -> None:
    """Each family has a socket of its own, so IPv4 clients are never seen as IPv6."""
    port = own_ports[0]
    listeners = await open_doors(BOTH, port)
    for address in ("127.0.0.1", "::1"):
        await (await trio.open_tcp_stream(address, port)).aclose()
    assert {listener.socket.family for listener in listeners} == {socket.AF_INET, socket.AF_INET6}
    for listener in listeners:
        await listener.aclose()
