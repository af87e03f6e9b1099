from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin.origin import Provenance, is_foreign

OWN = "http://127.0.0.1:47980"


@pytest.mark.parametrize(
    ("origin", "host", "over_tls", "foreign"),
    [
        (OWN, "127.0.0.1:47980", False, False),
        ("http://[::1]:47980", "[::1]:47980", False, False),
        ("http://LOCALHOST:47980", "localhost:47980", False, False),
        # The edge itself ends TLS.
        ("https://play.example.org:47980", "play.example.org:47980", True, False),
        ("http://play.example.org:47980", "play.example.org:47980", True, True),
        # A proxy before it does, and hands on the Host header.
        ("https://admin.example.org", "admin.example.org", False, False),
        ("https://admin.example.org", "admin.example.org:443", False, False),
        ("https://admin.example.org:8443", "admin.example.org:8443", False, False),
        ("http://admin.example.org", "admin.example.org", False, False),
        ("http://admin.example.org:80", "admin.example.org", False, False),
        # One that does not hand it on.
        ("https://admin.example.org", "127.0.0.1:47980", False, True),
        # Other hosts, and other ports of this one.
        ("http://127.0.0.1:47981", "127.0.0.1:47980", False, True),
        ("http://127.0.0.1", "127.0.0.1:47980", False, True),
        ("http://localhost:47980", "127.0.0.1:47980", False, True),
        ("https://admin.example.org", "admin.example.org:80", False, True),
        ("https://evil.example.org", "admin.example.org", False, True),
        ("https://admin.example.org.evil.example", "admin.example.org", False, True),
        # What is no origin of a page.
        ("null", "127.0.0.1:47980", False, True),
        ("", "127.0.0.1:47980", False, True),
        (OWN + "/", "127.0.0.1:47980", False, True),
        ("http://user@127.0.0.1:47980", "127.0.0.1:47980", False, True),
        ("file://127.0.0.1:47980", "127.0.0.1:47980", False, True),
        ("chrome-extension://abcdef", "abcdef", False, True),
        (OWN + "\n", "127.0.0.1:47980", False, True),
        (OWN, "", False, True),
        (OWN, "127.0.0.1:47980, evil", False, True),
        ("http://127.0.0.1:999999", "127.0.0.1:999999", False, True),
    ],
)
@pytest.mark.parametrize("method", ["GET", "POST"])
def test_an_origin_is_ours_if_host_and_port_are(
    method: str, origin: str, host: str, over_tls: bool, foreign: bool
) -> None:
    told = Provenance([origin], [host], over_tls=over_tls)
    assert is_foreign(method, told) == foreign


@pytest.mark.parametrize("hosts", [[], ["127.0.0.1:47980"] * 2])
def test_without_one_host_no_origin_is_ours(hosts: list[str]) -> None:
    assert is_foreign("GET", Provenance([OWN], hosts))


def test_two_origins_are_none() -> None:
    assert is_foreign("POST", Provenance([OWN, OWN], ["127.0.0.1:47980"]))


@pytest.mark.parametrize(
    ("method", "site", "with_cookie", "foreign"),
    [
        # Programs say nothing, and show no cookie.
        ("POST", [], False, False),
        ("DELETE", [], False, False),
        # With the cookie a change needs a proof.
        ("POST", [], True, True),
        ("PUT", ["same-origin"], True, False),
        ("PATCH", ["none"], True, True),
        ("DELETE", ["same-site"], True, True),
        ("POST", ["cross-site"], True, True),
        ("POST", ["same-origin", "same-origin"], True, True),
        ("POST", ["cross-site"], False, True),
        ("POST", ["same-site"], False, True),
        ("POST", ["none"], False, False),
        # To look is no change; other sites do not get to see what comes of it.
        ("GET", [], True, False),
        ("HEAD", ["cross-site"], True, False),
        ("GET", ["cross-site"], True, False),
    ],
)
def test_what_comes_without_an_origin(
    method: str, site: list[str], with_cookie: bool, foreign: bool
) -> None:
    told = Provenance([], ["127.0.0.1:47980"], site, with_cookie=with_cookie)
    assert is_foreign(method, told) == foreign


def test_an_origin_of_ours_does_not_outdo_what_the_browser_says() -> None:
    told = Provenance([OWN], ["127.0.0.1:47980"], ["cross-site"])
    assert is_foreign("POST", told)


@given(
    st.lists(st.text(string.printable + "é"), max_size=2),
    st.lists(st.text(string.printable), max_size=2),
    st.lists(st.sampled_from(["same-origin", "none", "x"]), max_size=2),
)
def test_whatever_is_told_with_a_cookie_only_a_proof_admits_a_change(
    origin: list[str], host: list[str], site: list[str]
) -> None:
    if not is_foreign("POST", Provenance(origin, host, site, with_cookie=True)):
        assert site == ["same-origin"] if not origin else origin[0].startswith("http")
