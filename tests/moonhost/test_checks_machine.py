"""What the doctor sees of this machine, with real files and sockets."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from moonhost.checks import machine
from moonhost.checks.judging_ports import PortState
from moonhost.checks.machine import EdgeProcess, WantedPort

LOOPBACK = "127.0.0.1"


@contextmanager
def listening(kind: socket.SocketKind, address: str = LOOPBACK) -> Iterator[int]:
    with socket.socket(type=kind) as taken:
        taken.bind((address, 0))
        if kind is socket.SOCK_STREAM:
            taken.listen()
        yield taken.getsockname()[1]


def wanted(protocol: Any, port: int, address: str = LOOPBACK) -> WantedPort:
    return WantedPort(protocol, address, port, "listen.http_port")


@pytest.mark.parametrize(
    ("protocol", "kind"), [("TCP", socket.SOCK_STREAM), ("UDP", socket.SOCK_DGRAM)]
)
def test_a_port_is_free_until_somebody_has_it(protocol: str, kind: socket.SocketKind) -> None:
    with listening(kind) as number:
        (taken,) = machine.try_ports([wanted(protocol, number)])
        (ours,) = machine.own_ports([wanted(protocol, number)], EdgeProcess(os.getpid()))
        (others,) = machine.own_ports([wanted(protocol, number)], EdgeProcess(1))
        (unknown,) = machine.own_ports([wanted(protocol, number)], EdgeProcess())
    (free,) = machine.try_ports([wanted(protocol, number)])
    (closed,) = machine.own_ports([wanted(protocol, number)], EdgeProcess(os.getpid()))
    assert (taken.state, f"process {os.getpid()}" in taken.holder) == (PortState.TAKEN, True)
    assert (ours.state, others.state, unknown.state) == (
        PortState.OURS,
        PortState.TAKEN,
        PortState.UNKNOWN,
    )
    assert (free.state, closed.state) == (PortState.FREE, PortState.CLOSED)


def test_who_has_a_port_of_all_addresses_is_named_for_one_of_them() -> None:
    with listening(socket.SOCK_STREAM, "0.0.0.0") as number:
        (taken,) = machine.try_ports([wanted("TCP", number)])
    assert f"process {os.getpid()}" in taken.holder


def test_an_address_that_this_machine_lacks_is_told() -> None:
    (facts,) = machine.try_ports([wanted("TCP", 47989, "192.0.2.7")])
    assert facts.state is PortState.NO_ADDRESS


def test_a_port_that_only_root_may_have_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(socket.socket, "bind", refuse)
    (facts,) = machine.try_ports([wanted("TCP", 1)])
    assert facts.state is PortState.PRIVILEGED


def test_sockets_of_other_users_are_seen_without_their_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = SimpleNamespace(ip=LOOPBACK, port=443)
    other = SimpleNamespace(
        type=socket.SOCK_STREAM, status=psutil.CONN_LISTEN, laddr=place, raddr=(), pid=None
    )
    monkeypatch.setattr(psutil, "net_connections", lambda _kind: [other])
    monkeypatch.setattr(machine, "_proc", Path("/nowhere"))
    (facts,) = machine.own_ports([wanted("TCP", 443)], EdgeProcess())
    assert (facts.state, facts.holder) == (PortState.UNKNOWN, "")
    assert machine.edge_process(LOOPBACK, 443) == EdgeProcess()
    assert machine.edge_process(LOOPBACK, 444) == EdgeProcess()


# As the kernel writes them: 127.0.0.1:47980 listens, 0.0.0.0:443 does, too, and somebody talks.
TABLES = {
    "tcp": """  sl local_address rem_address st tx_queue rx_queue tr tm->when retrnsmt uid
   0: 0100007F:BB6C 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 25 1
   1: 00000000:01BB 00000000:0000 0A 00000000:00000000 00:00000000 00000000   998        0 26 1
   2: 0100007F:01BC 0200007F:B04A 01 00000000:00000000 00:00000000 00000000  1000        0 27 1
   3: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 29 1
""",
    "udp6": """  sl local_address remote_address st tx_queue rx_queue tr tm->when retrnsmt uid
   9: 00000000000000000000000001000000:BB7E 00000000000000000000000000000000:0000 07 0:0 0:0 0 33
""",
}


def test_a_process_with_more_rights_than_ours_is_known_by_its_user(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "net").mkdir()
    for name, table in TABLES.items():
        (tmp_path / "net" / name).write_text(table)
    monkeypatch.setattr(machine, "_proc", tmp_path)
    monkeypatch.setattr(sys, "byteorder", "little")
    places = [("127.0.0.1", 47980), ("0.0.0.0", 443), ("0.0.0.0", 80)]
    listening = [
        SimpleNamespace(
            type=socket.SOCK_STREAM,
            status=psutil.CONN_LISTEN,
            laddr=SimpleNamespace(ip=address, port=number),
            raddr=(),
            pid=None,
        )
        for address, number in places
    ]
    v6 = SimpleNamespace(ip="::1", port=47998)
    listening.append(
        SimpleNamespace(type=socket.SOCK_DGRAM, status="NONE", laddr=v6, raddr=(), pid=None)
    )
    monkeypatch.setattr(psutil, "net_connections", lambda _kind: listening)
    commands = {
        7: (998, ["python3", "/usr/local/bin/moonhost", "proxy"]),
        8: (998, ["python3", "/usr/local/bin/moonhost", "agent"]),
        9: (999, ["python3", "-m", "moonhost", "proxy"]),
    }
    running = [
        SimpleNamespace(
            pid=pid,
            cmdline=lambda words=words: words,
            uids=lambda uid=uid: SimpleNamespace(effective=uid),
        )
        for pid, (uid, words) in commands.items()
    ]
    monkeypatch.setattr(psutil, "process_iter", lambda: running)

    edge = machine.edge_process("127.0.0.1", 47980)

    assert edge == EdgeProcess(7, 998)
    wishes = [wanted("TCP", number, address) for address, number in places]
    found = machine.own_ports([*wishes, wanted("UDP", 47998, "::1")], edge)
    assert [fact.state for fact in found] == [
        PortState.OURS,
        PortState.OURS,
        PortState.UNKNOWN,  # root's may be anybody's
        PortState.TAKEN,
    ]


def test_a_port_below_1024_that_is_taken_is_not_taken_for_a_lack_of_rights(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(*_: Any) -> None:
        raise PermissionError(13, "Permission denied")

    with listening(socket.SOCK_STREAM) as number:
        monkeypatch.setattr(socket.socket, "bind", refuse)
        (facts,) = machine.try_ports([wanted("TCP", number)])
    assert (facts.state, f"process {os.getpid()}" in facts.holder) == (PortState.TAKEN, True)


def test_files_are_looked_at_and_missing_ones_are_none(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.touch(mode=0o600)
    facts = machine.file_facts(secret)
    assert facts is not None
    assert (facts.mode & 0o777, facts.owner) == (0o600, machine.user_of(tmp_path).runs_as)
    assert machine.file_facts(tmp_path / "none") is None
    assert machine.user_of(tmp_path / "none").owner is None
    assert machine.free_bytes(tmp_path / "a" / "b") > 0


def test_a_folder_of_another_user_is_known_as_such(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert not machine.is_closed_to_us(tmp_path)
    assert not machine.is_closed_to_us(tmp_path / "none")
    monkeypatch.setattr(os, "access", lambda _path, _mode: False)
    assert machine.is_closed_to_us(tmp_path)

    def refuse(_path: Path) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "exists", refuse)
    assert machine.is_closed_to_us(tmp_path)


def test_limits_are_those_of_the_process_that_is_asked_about() -> None:
    ours, of_running = machine.allowed_descriptors(os.getpid())
    assert of_running
    assert machine.allowed_descriptors(None) == (ours, False)


def test_the_kernel_tells_of_clock_and_buffers(monkeypatch: pytest.MonkeyPatch) -> None:
    assert machine.clock_is_synchronised() in (True, False)
    assert (machine.buffers().receive_bytes or 1) > 0
    monkeypatch.setattr(machine, "_sysctl", Path("/nowhere"))
    assert machine.buffers().receive_bytes is None


async def test_names_are_looked_up() -> None:
    assert await machine.addresses_of(LOOPBACK) == (LOOPBACK,)
    assert await machine.addresses_of("x" * 300) == ()
    assert LOOPBACK in machine.own_addresses()
