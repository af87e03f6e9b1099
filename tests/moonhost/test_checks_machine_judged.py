"""What the doctor says of a machine: its user, files, disk, limits, ports, clock, name."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from moonhost.checks.finding import Finding, Mark, has_problem
from moonhost.checks.judging_machine import (
    Buffers,
    Descriptors,
    FileFacts,
    User,
    judge_buffers,
    judge_clock,
    judge_configured_files,
    judge_descriptors,
    judge_disk,
    judge_files,
    judge_user,
)
from moonhost.checks.judging_names import NameFacts, judge_name
from moonhost.checks.judging_ports import PortFacts, PortState, judge_ports, spans, state_of

FOLDER = FileFacts(Path("/var/lib/moonhost"), 0o40700, "moonhost")
KEY = FileFacts(Path("/var/lib/moonhost/store.key"), 0o100600, "moonhost")
OWN = frozenset({"127.0.0.1", "::1", "192.0.2.7", "2001:db8::7"})


def port(state: PortState, number: int = 47989, **more: str) -> PortFacts:
    facts = {"address": "0.0.0.0", "setting": "listen.http_port", **more}
    return PortFacts("TCP", facts["address"], number, facts["setting"], state, more.get("who", ""))


def marks(findings: list[Finding]) -> list[Mark]:
    return [finding.mark for finding in findings]


@pytest.mark.parametrize(
    ("user", "mark", "said"),
    [
        (User("moonhost", False, "moonhost"), Mark.OK, ""),
        (User("anna", False, None), Mark.OK, ""),
        (User("anna", False, "moonhost"), Mark.WARNING, "`sudo -u moonhost moonhost doctor`"),
        (User("moonhost", False, "root"), Mark.WARNING, "`chown moonhost`"),
        (User("root", True, "moonhost"), Mark.WARNING, "`sudo -u moonhost moonhost doctor`"),
        (User("root", True, "root"), Mark.OK, ""),
    ],
)
def test_whoever_is_not_the_edges_user_is_told_to_be(user: User, mark: Mark, said: str) -> None:
    finding = judge_user(user, "moonhost doctor")
    assert finding.mark is mark
    assert said in finding.remedy


def test_private_files_are_as_they_should_be() -> None:
    assert marks(judge_files(FOLDER, [KEY])) == [Mark.OK]
    assert marks(judge_files(None, [])) == [Mark.NOT_CHECKED]


@pytest.mark.parametrize("mode", [0o100640, 0o100604, 0o100644])
def test_a_secret_that_others_can_read_is_a_problem(mode: int) -> None:
    (found,) = judge_files(FOLDER, [FileFacts(KEY.path, mode, "moonhost")])
    assert found.mark is Mark.PROBLEM
    assert "chmod 600 /var/lib/moonhost/store.key" in found.remedy


def test_a_configured_secret_may_be_shared_with_a_group_and_not_with_everybody() -> None:
    shared = FileFacts(Path("/etc/ssl/private/edge.key"), 0o100640, "root")
    assert marks(judge_configured_files([shared])) == [Mark.OK]
    assert judge_configured_files([]) == []
    (found,) = judge_configured_files([FileFacts(shared.path, 0o100644, "root"), shared])
    assert found.mark is Mark.PROBLEM
    assert "chmod o-rwx /etc/ssl/private/edge.key`" in found.remedy


def test_a_file_of_another_user_is_a_problem() -> None:
    (found,) = judge_files(FOLDER, [FileFacts(KEY.path, KEY.mode, "root"), KEY])
    assert found.mark is Mark.PROBLEM
    assert "chown moonhost /var/lib/moonhost/store.key" in found.remedy


def test_an_open_folder_of_closed_files_is_a_warning() -> None:
    (found,) = judge_files(FileFacts(FOLDER.path, 0o40755, "moonhost"), [KEY])
    assert (found.mark, "0755" in found.seen) == (Mark.WARNING, True)


def test_of_many_files_a_few_are_named_and_all_are_in_the_command() -> None:
    many = [FileFacts(Path(f"/s/{number}"), 0o100644, "moonhost") for number in range(6)]
    (found,) = judge_files(FOLDER, many)
    assert found.seen.endswith("/s/3 and 2 more")
    assert "/s/5" in found.remedy


@pytest.mark.parametrize(
    ("free", "mark"), [(50 << 20, Mark.PROBLEM), (500 << 20, Mark.WARNING), (2 << 30, Mark.OK)]
)
def test_room_on_the_disk_is_judged(free: int, mark: Mark) -> None:
    assert judge_disk(Path("/s"), free).mark is mark


def test_a_low_limit_of_open_files_is_told_with_the_number_to_set() -> None:
    low = judge_descriptors(Descriptors(1024, 11_328, of_running=True))
    assert (low.mark, "LimitNOFILE=11328" in low.remedy) == (Mark.WARNING, True)
    assert "the edge may" in low.seen
    before = judge_descriptors(Descriptors(1024, 11_328, of_running=False))
    assert (before.mark, "`ulimit -n 11328`" in before.remedy) == (Mark.NOT_CHECKED, True)
    enough = judge_descriptors(Descriptors(11_328, 11_328, of_running=False))
    assert (enough.mark, "started from here" in enough.seen) == (Mark.OK, True)


@pytest.mark.parametrize(
    ("buffers", "mark", "said"),
    [
        (Buffers(1 << 20, 1 << 20), Mark.OK, ""),
        (Buffers(212_992, 1 << 20), Mark.WARNING, "`sysctl -w net.core.rmem_max=1048576`"),
        (Buffers(1, 1), Mark.WARNING, "net.core.rmem_max=1048576 net.core.wmem_max=1048576"),
        (Buffers(1 << 20, None), Mark.OK, ""),
        (Buffers(None, None), Mark.NOT_CHECKED, "does not tell"),
    ],
)
def test_small_buffers_are_told_with_the_command_that_enlarges_them(
    buffers: Buffers, mark: Mark, said: str
) -> None:
    finding = judge_buffers(buffers, 1 << 20)
    assert finding.mark is mark
    assert said in finding.remedy


@pytest.mark.parametrize(
    ("synchronised", "mark"),
    [(True, Mark.OK), (False, Mark.WARNING), (None, Mark.NOT_CHECKED)],
)
def test_a_clock_that_nobody_keeps_is_a_warning(synchronised: bool | None, mark: Mark) -> None:
    assert judge_clock(synchronised).mark is mark


@pytest.mark.parametrize(
    ("number", "state"),
    [
        (None, PortState.FREE),
        (errno.EADDRINUSE, PortState.TAKEN),
        (errno.EACCES, PortState.PRIVILEGED),
        (errno.EADDRNOTAVAIL, PortState.NO_ADDRESS),
        (errno.EAFNOSUPPORT, PortState.NO_ADDRESS),
        (errno.EIO, PortState.FAILED),
    ],
)
def test_what_the_kernel_says_to_a_bind_is_understood(number: int | None, state: PortState) -> None:
    assert state_of(number) is state


@pytest.mark.parametrize(
    ("state", "said"),
    [
        (PortState.TAKEN, "set another agents.port"),
        (PortState.NO_ADDRESS, "`ip address` shows"),
        (PortState.CLOSED, "Restart the edge if agents.port was changed"),
        (PortState.FAILED, "what it says of agents.port"),
    ],
)
def test_each_trouble_of_a_port_has_its_own_remedy(state: PortState, said: str) -> None:
    facts = [port(PortState.FREE), port(state, 443, setting="agents.port", address="::")]
    trouble, fine = judge_ports(facts)
    assert (trouble.mark, fine.mark) == (Mark.PROBLEM, Mark.OK)
    assert "TCP [::]:443" in trouble.seen
    assert said in trouble.remedy


def test_many_ports_with_one_trouble_are_one_finding() -> None:
    facts = [port(PortState.TAKEN, number, who="nginx, process 812") for number in range(1, 6)]
    (found,) = judge_ports(facts)
    assert "TCP 0.0.0.0:1 (nginx, process 812)" in found.seen
    assert "and 2 more" in found.seen
    assert found.remedy.count("listen.http_port") == 1
    settings = [port(PortState.TAKEN, number, setting=f"s{number}") for number in range(1, 6)]
    assert "another s1 or s2 or s3 and so on." in judge_ports(settings)[0].remedy


def test_ports_of_whom_nobody_tells_are_not_checked() -> None:
    (found,) = judge_ports([port(PortState.UNKNOWN)])
    assert (found.mark, has_problem([found])) == (Mark.NOT_CHECKED, False)


def test_a_port_that_only_the_unit_may_bind_is_no_problem() -> None:
    (found,) = judge_ports([port(PortState.PRIVILEGED, 443, setting="agents.port")])
    assert (found.mark, has_problem([found])) == (Mark.NOT_CHECKED, False)
    assert "CAP_NET_BIND_SERVICE" in found.remedy
    assert "agents.port to 1024" in found.remedy


def test_fine_ports_are_told_shortly() -> None:
    (found,) = judge_ports([port(PortState.OURS, number) for number in (48011, 443, 48010, 443)])
    assert found.seen == "TCP 443, 48010-48011 are the edge's"
    assert spans([]) == ""


def name(hostname: str, *addresses: str, ipv6: bool = True) -> list[Finding]:
    return judge_name(NameFacts(hostname, addresses, OWN, listens_on_ipv6=ipv6))


def test_a_name_of_this_machine_is_fine() -> None:
    assert marks(name("play.example.org", "192.0.2.7", "2001:db8::7")) == [Mark.OK]
    assert marks(name("127.0.0.1", "127.0.0.1")) == [Mark.OK]


def test_a_name_that_nobody_knows_is_a_problem() -> None:
    (found,) = name("play.example.org")
    assert (found.mark, "A record" in found.remedy) == (Mark.PROBLEM, True)


def test_an_aaaa_record_without_ipv6_is_a_problem() -> None:
    (found,) = name("play.example.org", "192.0.2.7", "2001:db8::7", ipv6=False)
    assert (found.mark, '"::"' in found.remedy) == (Mark.PROBLEM, True)


def test_an_address_elsewhere_is_told() -> None:
    (found,) = name("play.example.org", "198.51.100.1")
    assert found.mark is Mark.WARNING
    assert "this machine has 192.0.2.7, 2001:db8::7" in found.seen
    assert "behind NAT" in found.remedy
    (alone,) = judge_name(NameFacts("h", ("198.51.100.1",), frozenset(), listens_on_ipv6=True))
    assert "this machine has no address" in alone.seen


def test_a_name_that_only_this_machine_knows_is_told() -> None:
    found = name("play.example.org", "127.0.1.1")
    assert "/etc/hosts" in found[0].remedy
