from __future__ import annotations

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backends.records import SigningKeyRecord
from proxy.admin.key_rotation import RotationRules, clock_skew, plan

START = datetime(2026, 11, 23, tzinfo=UTC)
DAYS = timedelta(days=1)
SECONDS = timedelta(seconds=1)
RULES = RotationRules(key_lifetime=30 * DAYS, jwt_lifetime=305 * SECONDS)


def keys(*ages: timedelta) -> list[SigningKeyRecord]:
    """Keys made so long after the start, by name k0, k1 …"""
    return [SigningKeyRecord(f"k{place}", b"", START + age) for place, age in enumerate(ages)]


def test_without_a_key_one_is_due() -> None:
    none = plan([], RULES, START)
    assert (none.signing, none.published, none.is_due) == (None, (), True)


def test_the_first_key_signs_at_once_even_if_the_clock_goes_back() -> None:
    for now in (START, START - DAYS, START + 29 * DAYS):
        first = plan(keys(0 * DAYS), RULES, now)
        assert (first.signing, first.published, first.is_due) == ("k0", ("k0",), False)
        assert first.next_signs_from is None


def test_a_new_key_is_due_after_the_lifetime_of_the_newest() -> None:
    assert plan(keys(0 * DAYS), RULES, START + 30 * DAYS).is_due
    assert not plan(keys(0 * DAYS, 30 * DAYS), RULES, START + 59 * DAYS).is_due
    assert plan(keys(0 * DAYS, 30 * DAYS), RULES, START + 60 * DAYS).is_due


def test_a_new_key_is_published_before_it_signs() -> None:
    made = START + 30 * DAYS
    waiting = plan(keys(0 * DAYS, 30 * DAYS), RULES, made + 599 * SECONDS)
    assert (waiting.signing, waiting.published) == ("k0", ("k0", "k1"))
    assert waiting.next_signs_from == made + 600 * SECONDS
    signing = plan(keys(0 * DAYS, 30 * DAYS), RULES, made + 600 * SECONDS)
    assert (signing.signing, signing.next_signs_from) == ("k1", None)


def test_an_old_key_stays_until_its_jwts_have_expired() -> None:
    pair = keys(0 * DAYS, 30 * DAYS)
    over = START + 30 * DAYS + 600 * SECONDS + 305 * SECONDS + clock_skew
    before = plan(pair, RULES, over - SECONDS)
    assert (before.published, before.retired) == (("k0", "k1"), ())
    after = plan(pair, RULES, over)
    assert (after.published, after.retired) == (("k1",), ("k0",))


@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=5),
    st.integers(-100, 5_000),
)
def test_whatever_was_signed_is_verified_until_it_expires(ages: list[int], at: int) -> None:
    """The key that signs at a moment is published then, and for as long as a JWT lasts."""
    made = keys(*(age * SECONDS for age in sorted(ages)))
    now = START + at * SECONDS
    signing = plan(made, RULES, now).signing
    for later in (0, 1, 100, 304, 305):
        assert signing in plan(made, RULES, now + later * SECONDS).published


@given(
    st.lists(st.integers(0, 3_000), min_size=1, max_size=5),
    st.integers(-100, 5_000),
)
def test_every_key_is_published_or_retired_and_never_signs_unpublished(
    ages: list[int], at: int
) -> None:
    made = keys(*(age * SECONDS for age in sorted(ages)))
    now = START + at * SECONDS
    one = plan(made, RULES, now)
    assert {*one.published, *one.retired} == {key.kid for key in made}
    assert not set(one.published) & set(one.retired)
    assert one.signing in one.published
    if (signing := one.signing) != "k0":
        # Whoever took the key set a lead time ago knows the key.
        (record,) = [key for key in made if key.kid == signing]
        assert record.created_at + RULES.publish_lead <= now
