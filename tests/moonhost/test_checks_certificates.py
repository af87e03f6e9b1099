"""What the doctor says of the certificate that agents see."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trustme
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from moonhost.checks.certificates import (
    UnusableCertificate,
    covers,
    judge_certificate,
    judge_shown,
    read_certificate,
)
from moonhost.checks.finding import Finding, Mark
from proxy import state_dir

HOST = "play.example.org"
NOW = datetime.now(UTC)


def judged(chain: bytes, key: bytes, *, hostname: str = HOST, now: datetime = NOW) -> list[Finding]:
    return judge_certificate(read_certificate(chain, key), hostname, now)


def issued(authority: trustme.CA | None = None, name: str = HOST) -> tuple[list[bytes], bytes]:
    made = (authority or trustme.CA()).issue_cert(name, not_after=NOW + timedelta(days=90))
    return [pem.bytes() for pem in made.cert_chain_pems], made.private_key_pem.bytes()


def with_intermediate() -> tuple[list[bytes], bytes]:
    chain, key = issued(trustme.CA().create_child_ca())
    assert len(chain) == 2
    return chain, key


def test_a_chain_for_the_name_is_fine() -> None:
    chain, key = with_intermediate()
    (found,) = judged(b"".join(chain), key)
    assert (found.mark, HOST in found.seen) == (Mark.OK, True)


def test_one_that_the_edge_made_itself_is_fine_and_agents_need_a_copy(tmp_path: Path) -> None:
    state_dir.agents_context(tmp_path, HOST, None, None)
    (found,) = judged(
        (tmp_path / state_dir.agents_certificate).read_bytes(),
        (tmp_path / state_dir.agents_private_key).read_bytes(),
    )
    assert (found.mark, "edge.ca_file" in found.seen) == (Mark.OK, True)


def test_the_key_of_another_is_a_problem() -> None:
    chain, _ = with_intermediate()
    (found,) = judged(b"".join(chain), issued()[1])
    assert (found.mark, "is not the key" in found.seen) == (Mark.PROBLEM, True)


def test_a_chain_in_the_wrong_order_is_a_problem() -> None:
    chain, key = with_intermediate()
    stranger, _ = issued()
    (found,) = judged(chain[0] + stranger[0], key)
    assert (found.mark, "fullchain.pem" in found.remedy) == (Mark.PROBLEM, True)


def test_a_chain_without_its_intermediate_is_a_warning() -> None:
    chain, key = with_intermediate()
    (found,) = judged(chain[0], key)
    assert (found.mark, "fullchain.pem" in found.remedy) == (Mark.WARNING, True)


@pytest.mark.parametrize(
    ("days", "mark", "said"),
    [
        (60, Mark.OK, "valid until"),
        (80, Mark.WARNING, "it expires in 9 days"),
        (91, Mark.PROBLEM, "it expired at"),
        (-20_000, Mark.PROBLEM, "it is not valid before"),
    ],
)
def test_time_passes(days: int, mark: Mark, said: str) -> None:
    chain, key = with_intermediate()
    (found,) = judged(b"".join(chain), key, now=NOW + timedelta(days=days))
    assert found.mark is mark
    assert said in found.seen


def test_one_that_the_edge_made_itself_is_renewed_in_its_own_way(tmp_path: Path) -> None:
    state_dir.agents_context(tmp_path, HOST, None, None)
    (found,) = judged(
        (tmp_path / state_dir.agents_certificate).read_bytes(),
        (tmp_path / state_dir.agents_private_key).read_bytes(),
        now=NOW + timedelta(days=365 * 30),
    )
    assert "delete agents.pem and agents.key" in found.remedy


def test_a_certificate_for_nobody_and_one_for_others_are_problems() -> None:
    chain, key = with_intermediate()
    (found,) = judged(b"".join(chain), key, hostname="other.example.org")
    assert (found.mark, f"it is for {HOST}" in found.seen) == (Mark.PROBLEM, True)
    authority = trustme.CA()
    pem = authority.cert_pem.bytes()
    found, *_ = judged(pem, authority.private_key_pem.bytes())
    assert (found.mark, "it is for nobody" in found.seen) == (Mark.PROBLEM, True)


@pytest.mark.parametrize(
    ("name", "hostname", "covered"),
    [
        ("play.example.org", "PLAY.example.org.", True),
        ("*.example.org", "play.example.org", True),
        ("*.example.org", "a.play.example.org", False),
        ("*.example.org", "example.org", False),
        ("192.0.2.7", "192.0.2.7", True),
        ("2001:db8:0::7", "2001:db8::7", True),
        ("192.0.2.7", "192.0.2.8", False),
        ("play.example.org", "192.0.2.7", False),
    ],
)
def test_names_are_compared_as_tls_does(name: str, hostname: str, covered: bool) -> None:
    assert covers(name, hostname) is covered


def test_a_running_edge_that_shows_an_older_one_is_told_to_restart() -> None:
    chain, key = issued()
    facts = read_certificate(chain[0], key)
    assert judge_shown(facts, None) == judge_shown(facts, facts.fingerprint) == []
    (found,) = judge_shown(facts, bytes(32))
    assert (found.mark, "`systemctl reload moonhost-edge`" in found.remedy) == (Mark.PROBLEM, True)


def locked_key() -> bytes:
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"hunter2"),
    )


def test_files_that_hold_something_else_are_told() -> None:
    chain, key = issued()
    with pytest.raises(UnusableCertificate, match="no PEM certificate"):
        read_certificate(b"hello", key)
    with pytest.raises(UnusableCertificate, match="no PEM private key"):
        read_certificate(chain[0], b"hello")
    with pytest.raises(UnusableCertificate, match="has a password"):
        read_certificate(chain[0], locked_key())
