from __future__ import annotations

from proxy.access import Access, AccessRules, everybody_else, everything, nothing
from proxy.config import ProxyConfig


def test_without_rules_everybody_may_use_everything() -> None:
    rules = AccessRules()
    for user in (None, "anna"):
        assert rules.of(user) == everything
    assert everything.allows_app("Desktop")
    assert everything.allows_region("eu")


def test_rules_are_for_their_user_and_titles_match_however_they_are_written() -> None:
    rules = ProxyConfig.model_validate(
        {"hostname": "h", "users": {"anna": {"apps": [" STEAM "], "regions": ["eu"]}}}
    ).access_rules()
    anna = rules.of("anna")
    assert (anna.allows_app("steam"), anna.allows_app("Desktop")) == (True, False)
    assert (anna.allows_region("eu"), anna.allows_region("us")) == (True, False)
    assert rules.of(None) == everything


def test_a_name_that_no_rule_knows_opens_nothing() -> None:
    rules = AccessRules({"anna": everything})
    assert rules.of("ana") == nothing
    assert (rules.knows("anna"), rules.knows("ana")) == (True, False)
    assert AccessRules().knows("anybody")
    assert AccessRules({everybody_else: everything}).knows("anybody")


def test_everybody_else_is_who_has_no_rules_of_their_own() -> None:
    others = Access(apps=frozenset())
    rules = AccessRules({everybody_else: others, "anna": everything})
    assert rules.of(None) == others
    assert rules.of("ben") == others
    assert rules.of("anna") == everything


def test_rules_that_change_are_seen_by_all_who_have_them() -> None:
    rules = AccessRules({"anna": everything})
    rules.become(AccessRules({"ben": everything, everybody_else: nothing}))
    assert (rules.of("anna"), rules.of("ben"), rules.of(None)) == (nothing, everything, nothing)
