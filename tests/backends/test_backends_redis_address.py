"""URLs of Redis servers: which are understood, and that none shows its password."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backends.errors import StoreError
from backends.redis_address import RedisAddress, parse_redis_url


@pytest.mark.parametrize(
    ("url", "address", "name"),
    [
        ("redis://localhost", RedisAddress(host="localhost"), "localhost:6379"),
        (
            "redis://10.0.0.5:7000/3",
            RedisAddress(host="10.0.0.5", port=7000, db=3),
            "10.0.0.5:7000",
        ),
        (
            "rediss://[2001:db8::1]/",
            RedisAddress(host="2001:db8::1", tls=True),
            "[2001:db8::1]:6379",
        ),
        (
            "redis://edge:p%40ss@a",
            RedisAddress(host="a", username="edge", password="p@ss"),
            "a:6379",
        ),
        (
            "unix:///run/redis.sock?db=2",
            RedisAddress(path="/run/redis.sock", db=2),
            "/run/redis.sock",
        ),
        (
            "unix://edge@/run/redis.sock",
            RedisAddress(path="/run/redis.sock", username="edge"),
            "/run/redis.sock",
        ),
    ],
)
def test_what_is_understood(url: str, address: RedisAddress, name: str) -> None:
    assert parse_redis_url(url) == address
    assert str(address) == name


@pytest.mark.parametrize(
    "url",
    [
        *("", "localhost:6379", "http://a", "redis://", "redis://a:0", "redis://a:70000"),
        *("redis://a/x", "redis://a/-1", "redis://a?db=1", "redis://[::1", "redis://a#b"),
        *("unix:///", "unix://a/b", "unix:///a?db=x", "unix:///a?timeout=1", "unix:///a?db"),
    ],
)
def test_what_is_no_url(url: str) -> None:
    with pytest.raises(StoreError, match="redis://HOST") as caught:
        parse_redis_url(url)
    assert caught.value.reason == "bad_url"


@given(st.text())
def test_any_text_is_an_address_or_refused(text: str) -> None:
    for url in (text, f"redis://{text}", f"unix://{text}"):
        with suppress(StoreError):
            parse_redis_url(url)


def test_a_password_of_its_own_goes_before_the_urls_and_neither_is_shown() -> None:
    address = parse_redis_url("redis://:first@a")
    assert address.with_password(None) is address
    assert address.with_password("second").password == "second"
    assert "first" not in repr(address) + str(address)
