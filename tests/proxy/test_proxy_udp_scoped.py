"""Clients at link-local addresses, which mean something only together with an interface."""

from __future__ import annotations

import ctypes
import os
import select
import socket
import subprocess
import threading
from collections.abc import Callable
from contextlib import closing

import pytest

from proxy.udp_port import Arrival, Endpoint, UdpPort, connect_socket

NEW_NETWORK = 0x4000_0000
LINK_LOCAL = "fe80::5"


def make_network() -> None:
    if ctypes.CDLL(None, use_errno=True).unshare(NEW_NETWORK):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for command in ("link set lo up", f"addr add {LINK_LOCAL}/64 dev lo nodad"):
        subprocess.run(["ip", *command.split()], check=True, capture_output=True)


def in_own_network(test: Callable[[], None]) -> None:
    """Run in a network namespace of the thread's own, with a link-local address on loopback."""
    outcome: list[BaseException | str] = []

    def run() -> None:
        try:
            make_network()
        except (OSError, subprocess.CalledProcessError) as error:
            outcome.append(f"no network can be made: {error}")
            return
        try:
            test()
        except BaseException as error:
            outcome.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    for what in outcome:
        if isinstance(what, str):
            pytest.skip(what)
        raise what


def readable(one: socket.socket) -> None:
    assert select.select([one], [], [], 5)[0]


@pytest.mark.parametrize("listening", ["::", f"{LINK_LOCAL}%lo"])
def test_a_link_local_client_is_answered_on_its_own_link(listening: str) -> None:
    def test() -> None:
        scope = socket.if_nametoindex("lo")
        port = UdpPort(listening, 0)
        with closing(port), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as client:
            client.bind((LINK_LOCAL, 0, 0, scope))
            # An address that is a moment old may not be reached at once.
            for _ in range(100):
                client.sendto(b"ping", (LINK_LOCAL, port.port, 0, scope))
                if select.select([port._socket], [], [], 0.1)[0]:
                    break
            arrival, *_ = port._drain()
            assert arrival.client == Endpoint(LINK_LOCAL, client.getsockname()[1], scope)
            assert arrival.local == Endpoint(LINK_LOCAL, port.port, scope)

            strays: list[Arrival] = []
            with connect_socket(arrival.local, arrival.client, strays.append) as taken:
                taken.send(b"video")
                readable(client)
                assert client.recvfrom(100)[1][:2] == (LINK_LOCAL, port.port)
                client.sendto(b"more", (LINK_LOCAL, port.port, 0, scope))
                readable(taken)
                assert taken.recv(100) == b"more"
            assert strays == []

    in_own_network(test)


@pytest.mark.parametrize(
    ("endpoint", "shown", "stored"),
    [
        (Endpoint("192.0.2.1", 5), "192.0.2.1:5", ("192.0.2.1", 5)),
        (Endpoint("2001:db8::1", 5), "[2001:db8::1]:5", ("2001:db8::1", 5)),
        (Endpoint("fe80::1", 5, 3), "[fe80::1]:5", ("fe80::1%3", 5)),
    ],
)
def test_the_interface_is_kept_over_a_restart_and_shown_to_nobody(
    endpoint: Endpoint, shown: str, stored: tuple[str, int]
) -> None:
    assert str(endpoint) == shown
    assert endpoint.stored == stored
    assert Endpoint.from_stored(stored) == endpoint
