from __future__ import annotations

import base64
import json
from collections.abc import Callable
from typing import Any

import pytest
from admin_access import ISSUER, KID, jwt_of, signing_key
from hypothesis import given
from hypothesis import strategies as st

from proxy.admin import jwts
from proxy.admin.credentials import bearer_of, cookie_name, has_cookie, login_of, set_cookie
from proxy.admin.denials import Denial
from proxy.errors import Refused

ID = "aB-_" * 10 + "xyz"
KEYS = {KID: signing_key(KID).public_key()}


def test_one_bearer_credential_is_read() -> None:
    assert bearer_of([]) is None
    for scheme in ("Bearer", "bearer", "BEARER"):
        assert bearer_of([f"{scheme} a.b-c_d~!"]) == "a.b-c_d~!"


@pytest.mark.parametrize(
    "values",
    [
        [""],
        ["Bearer"],
        ["Bearer "],
        ["Bearer  a"],
        ["Bearer a "],
        ["Bearer a b"],
        ["Basic YTpi"],
        ["a.b.c"],
        ["Bearer a\n"],
        ["Bearer é"],
        ["Bearer " + "a" * 4_097],
        ["Bearer " + "a" * 100_000],
        ["Bearer a", "Bearer a"],
    ],
)
def test_all_else_is_malformed(values: list[str]) -> None:
    with pytest.raises(Refused) as caught:
        bearer_of(values)
    assert caught.value.reason == Denial.MALFORMED


@pytest.mark.parametrize(
    ("values", "login"),
    [
        ([], None),
        ([f"{cookie_name}={ID}"], ID),
        ([f"a=b; {cookie_name}={ID};c=d"], ID),
        (["a=b", f"{cookie_name}={ID}"], ID),
        ([f"{cookie_name}={ID}; {cookie_name}={ID}"], ID),
        ([f"{cookie_name}={ID}; {cookie_name}={ID[::-1]}"], None),
        ([f"x{cookie_name}={ID}"], None),
        ([f"{cookie_name}={ID}x"], None),
        ([f"{cookie_name} ={ID}"], None),
        ([f"{cookie_name}"], None),
        ([f"{cookie_name}={ID};" + " " * 9_000], None),
    ],
)
def test_one_login_is_read_from_cookies(values: list[str], login: str | None) -> None:
    assert login_of(values) == login


def test_a_cookie_is_told_from_none_even_if_it_is_bad() -> None:
    assert has_cookie([f"{cookie_name}=x"])
    assert not has_cookie(["other=x"])


def outcome_of(function: Callable[[], object]) -> object:
    """What a function returns, or the status that it refuses with."""
    try:
        return function()
    except Refused as error:
        return error.status


@given(st.lists(st.text(), max_size=3))
def test_whatever_the_header_only_what_could_be_a_credential_is_returned(values: list[str]) -> None:
    outcome = outcome_of(lambda: bearer_of(values))
    if isinstance(outcome, str):
        assert outcome.isascii()
        assert outcome.isprintable()
    else:
        assert outcome == (401 if values else None)


pieces = st.sampled_from([cookie_name, "=", ";", " ", ID, ID[::-1], "x"])


@given(st.lists(st.lists(pieces, max_size=9).map("".join) | st.text(), max_size=3))
def test_whatever_the_cookies_only_what_could_be_a_login_is_returned(values: list[str]) -> None:
    login = login_of(values)
    if login is not None:
        assert len(login) == 43
        assert login_of([set_cookie(login, 1).partition(";")[0]]) == login


@given(st.text(max_size=60) | st.binary(max_size=3_000).map(lambda data: data.decode("latin-1")))
def test_whatever_is_no_jwt_is_refused(text: str) -> None:
    for token in (text, f"{text}.{text}.{text}"):
        with pytest.raises(Refused) as caught:
            jwts.verify(token, KEYS, issuer=ISSUER)
        assert caught.value.status == 401


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["RS256", "none", "HS256", "k"]),
    lambda values: st.lists(values, max_size=2) | st.dictionaries(st.text(max_size=2), values),
    max_leaves=5,
)
header_names = st.sampled_from(["alg", "typ", "crit", "b64", "jku", "jwk", "x5u", "x5c", "zip"])


@given(st.dictionaries(header_names, json_values), st.binary(max_size=300))
def test_no_header_makes_a_known_keys_jwt_good(header: dict[str, Any], signature: bytes) -> None:
    parts = json.dumps({"alg": "RS256", **header, "kid": KID}).encode(), b"{}", signature
    token = ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts)
    assert outcome_of(lambda: jwts.verify(token, KEYS, issuer=ISSUER)) == 401


@given(st.integers(0, 2_000), st.characters(codec="ascii"))
def test_a_jwt_with_another_character_is_refused(place: int, other: str) -> None:
    token = jwt_of()
    place %= len(token)
    changed = token[:place] + other + token[place + 1 :]
    outcome = outcome_of(lambda: jwts.verify(changed, KEYS, issuer=ISSUER))
    # The last character of Base64 has bits that mean nothing.
    assert outcome in (401, jwts.verify(token, KEYS, issuer=ISSUER))
