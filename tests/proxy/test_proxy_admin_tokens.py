"""Getting JWTs, logging in, and making and revoking tokens, over the admin API."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import jwt
import pytest
import structlog.testing
import trio
from admin_access import ISSUER, KID, LOCAL_TOKEN, ask, granted, jwt_of, key_record, signing_key
from proxy_fakes import FakeStore, FakeTunnel, serving
from test_proxy_admin import Edge, edge, problem

from backends.errors import StoreError
from backends.tokens import token_hash
from proxy.admin import signing_keys
from proxy.admin.credentials import cookie_name
from proxy.admin.login_endpoints import ShownToken
from proxy.admin.scopes import Scope
from proxy.admin.signing_keys import SigningKeys, rotation_rules
from proxy.errors import Refused

__all__ = ["edge"]

TOKEN = "/api/v1/token"
TOKENS = "/api/v1/tokens"
LOGIN = "/api/v1/login"
LOGOUT = "/api/v1/logout"
WHOAMI = "/api/v1/whoami"
CLIENTS = "/api/v1/clients"
OWN_PAGE = ("Origin", "http://edge:47980")


async def exchange(edge: Edge, token: str, body: Any = None, **more: Any) -> httpx.Response:
    return await ask(edge.application, "POST", TOKEN, jwt=token, json=body or {}, **more)


# JWTs


async def test_a_token_is_exchanged_for_a_jwt_of_five_minutes(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ, Scope.PAIR)
    response = await exchange(edge, "token-of-anna")
    assert response.status_code == 200, response.text
    assert response.headers["cache-control"] == "no-store"
    told = response.json()
    assert (told["token_type"], told["expires_in"], told["scope"]) == ("Bearer", 300, "read pair")
    said = jwt.decode(
        told["access_token"], signing_key(KID).public_key(), ["RS256"], audience="moonhost-admin"
    )
    assert (said["iss"], said["sub"], said["scope"]) == (ISSUER, "anna", "read pair")
    assert said["exp"] - said["iat"] == 300
    assert jwt.get_unverified_header(told["access_token"]) == {
        "alg": "RS256",
        "kid": KID,
        "typ": "JWT",
    }
    other = (await exchange(edge, "token-of-anna")).json()["access_token"]
    assert jwt.decode(other, options={"verify_signature": False})["jti"] != said["jti"]
    answer = await ask(edge.application, "GET", WHOAMI, jwt=told["access_token"])
    assert answer.json()["name"] == "anna"


@pytest.mark.parametrize(
    ("held", "wanted", "got"),
    [
        ([Scope.ADMIN], ["read"], "read"),
        ([Scope.OPERATE], ["read"], "read"),
        ([Scope.READ, Scope.PAIR], ["pair"], "pair"),
        ([Scope.OPERATE], ["operate", "read", "read"], "read operate"),
    ],
)
async def test_a_jwt_may_do_less_than_its_token(
    edge: Edge, held: list[Scope], wanted: list[str], got: str
) -> None:
    granted(edge.store, "anna", *held)
    response = await exchange(edge, "token-of-anna", {"scopes": wanted})
    assert response.json()["scope"] == got


@pytest.mark.parametrize("held", [[Scope.READ], [Scope.PAIR], [Scope.OPERATE]])
async def test_a_jwt_may_not_do_more_than_its_token(edge: Edge, held: list[Scope]) -> None:
    granted(edge.store, "anna", *held)
    response = await exchange(edge, "token-of-anna", {"scopes": ["admin"]})
    assert (response.status_code, problem(response)) == (403, "insufficient_scope")


@pytest.mark.parametrize("body", [{"scopes": []}, {"scopes": ["everything"]}, {"scope": "read"}])
async def test_what_is_asked_for_must_be_there(edge: Edge, body: Any) -> None:
    response = await exchange(edge, LOCAL_TOKEN, body)
    assert (response.status_code, problem(response)) in {(400, "bad_scopes"), (400, "bad_body")}


@pytest.mark.parametrize("path", [TOKEN, LOGIN])
async def test_an_oversized_body_is_refused(edge: Edge, path: str) -> None:
    sent: list[Any] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b" " * 3_000, "more_body": True}

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": "POST",
        "scheme": "http",
        "path": path,
        "query_string": b"",
        "headers": [
            (b"authorization", f"Bearer {LOCAL_TOKEN}".encode()),
            (b"host", b"edge"),
            (b"content-type", b"application/json"),
        ],
    }
    await edge.application(scope, receive, send)
    assert sent[0]["status"] == 413


async def test_a_jwt_is_not_exchanged_for_another(edge: Edge) -> None:
    response = await exchange(edge, jwt_of())
    assert (response.status_code, problem(response)) == (401, "wrong_token")


async def test_the_local_token_needs_no_store(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    edge.store.away = True
    assert (await exchange(edge, LOCAL_TOKEN)).status_code == 200
    assert (await exchange(edge, "token-of-anna")).status_code == 503


async def test_nobody_is_told_to_show_something(edge: Edge) -> None:
    response = await ask(edge.application, "POST", TOKEN, json={})
    assert (response.status_code, problem(response)) == (401, "unauthorized")


async def test_who_guesses_waits_and_nobody_else(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    for _ in range(10):
        response = await exchange(edge, "a-guess-of-16-letters")
        assert (response.status_code, problem(response)) == (401, "wrong_token")
    for token in ("a-guess-of-16-letters", "token-of-anna"):
        response = await exchange(edge, token)
        assert (response.status_code, problem(response)) == (429, "too_many_attempts")
        assert 1 <= int(response.headers["retry-after"]) <= 2
        login = await ask(edge.application, "POST", LOGIN, json={"token": token})
        assert login.status_code == 429
    assert (await exchange(edge, "token-of-anna", address="198.51.100.7")).status_code == 200


async def test_ipv6_guessers_are_told_apart_by_network(edge: Edge) -> None:
    for number in range(10):
        await exchange(edge, "a-guess", address=f"2001:db8::{number}")
    assert (await exchange(edge, "a-guess", address="2001:db8::ffff")).status_code == 429
    assert (await exchange(edge, "a-guess", address="2001:db8:0:1::1")).status_code == 401


# The console


def cookie_of(response: httpx.Response) -> tuple[str, str]:
    (told,) = response.headers.get_list("set-cookie")
    return ("Cookie", told.partition(";")[0])


async def log_in(edge: Edge, token: str = LOCAL_TOKEN) -> tuple[str, str]:
    response = await ask(edge.application, "POST", LOGIN, json={"token": token})
    assert response.status_code == 200, response.text
    return cookie_of(response)


async def test_a_token_logs_in(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.OPERATE)
    response = await ask(edge.application, "POST", LOGIN, json={"token": "token-of-anna"})
    told = response.json()
    assert (told["name"], told["scopes"]) == ("anna", ["read", "operate"])
    assert response.headers["cache-control"] == "no-store"
    (cookie,) = response.headers.get_list("set-cookie")
    value, *attributes = cookie.split("; ")
    assert value.startswith("__Host-moonhost=")
    assert {"HttpOnly", "Secure", "SameSite=Strict", "Path=/", "Max-Age=43200"} == set(attributes)
    assert "token-of-anna" not in cookie + response.text
    who = await ask(edge.application, "GET", WHOAMI, headers=[cookie_of(response)])
    assert who.json()["name"] == "anna"
    for answer in (told, who.json()):
        ends = datetime.fromisoformat(answer["expires_at"]) - datetime.now(UTC)
        assert timedelta(hours=11, minutes=59) < ends <= timedelta(hours=12)


async def test_a_login_may_do_what_its_token_may(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    cookie = await log_in(edge, "token-of-anna")
    read = await ask(edge.application, "GET", CLIENTS, headers=[cookie])
    assert read.status_code == 200
    change = await ask(edge.application, "DELETE", f"{CLIENTS}/x", headers=[cookie, OWN_PAGE])
    assert (change.status_code, problem(change)) == (403, "insufficient_scope")


@pytest.mark.parametrize(
    "headers",
    [
        [],
        [("Origin", "https://evil.example.org")],
        [("Origin", "null")],
        [("Origin", "http://edge:47981")],
        [("Origin", "http://edge")],
        [("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "same-site")],
        [("Sec-Fetch-Site", "none")],
        [OWN_PAGE, ("Sec-Fetch-Site", "cross-site")],
        [OWN_PAGE, OWN_PAGE],
    ],
)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("DELETE", f"{CLIENTS}/x"),
        ("POST", LOGOUT),
        ("POST", LOGIN),
        ("POST", "/api/v1/keys/rotate"),
    ],
)
async def test_a_cookie_changes_nothing_for_other_pages(
    edge: Edge, method: str, path: str, headers: list[tuple[str, str]]
) -> None:
    cookie = await log_in(edge)
    response = await ask(edge.application, method, path, headers=[cookie, *headers])
    assert (response.status_code, problem(response)) == (403, "foreign_origin")
    assert (await ask(edge.application, "GET", WHOAMI, headers=[cookie])).status_code == 200


@pytest.mark.parametrize("page", [OWN_PAGE, ("Sec-Fetch-Site", "same-origin")])
async def test_a_page_of_the_api_itself_may(edge: Edge, page: tuple[str, str]) -> None:
    cookie = await log_in(edge)
    response = await ask(edge.application, "DELETE", f"{CLIENTS}/x", headers=[cookie, page])
    assert response.status_code == 404


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", ""])
async def test_what_a_form_of_another_page_could_send_is_refused(edge: Edge, kind: str) -> None:
    cookie = await log_in(edge)
    response = await ask(
        edge.application,
        "POST",
        TOKENS,
        headers=[cookie, OWN_PAGE, ("Content-Type", kind)],
        content=b'{"kind": "agent", "name": "x"}',
    )
    assert (response.status_code, problem(response)) == (415, "not_json")


async def test_logging_out_ends_a_login(edge: Edge) -> None:
    cookie = await log_in(edge)
    another = await log_in(edge)
    response = await ask(edge.application, "POST", LOGOUT, headers=[cookie, OWN_PAGE])
    assert response.status_code == 204
    assert "Max-Age=0" in response.headers["set-cookie"]
    ended = await ask(edge.application, "GET", WHOAMI, headers=[cookie])
    assert (ended.status_code, problem(ended)) == (401, "login_ended")
    assert (await ask(edge.application, "GET", WHOAMI, headers=[another])).status_code == 200
    again = await ask(edge.application, "POST", LOGOUT, headers=[cookie, OWN_PAGE])
    assert again.status_code == 204


@pytest.mark.parametrize(
    "cookie",
    ["", "x", "a" * 43, "a" * 44, '"' + "a" * 41 + '"', "a" * 43 + f"; {cookie_name}=" + "b" * 43],
)
async def test_no_other_cookie_is_a_login(edge: Edge, cookie: str) -> None:
    await log_in(edge)
    headers = [("Cookie", f"{cookie_name}={cookie}")]
    response = await ask(edge.application, "GET", WHOAMI, headers=headers)
    assert (response.status_code, problem(response)) == (401, "login_ended")


async def test_an_idle_login_ends(edge: Edge, autojump_clock: trio.testing.MockClock) -> None:
    cookie = await log_in(edge)
    for hours, status in ((0.9, 200), (0.9, 200), (1.01, 401)):
        await trio.sleep(hours * 3_600)
        response = await ask(edge.application, "GET", WHOAMI, headers=[cookie])
        assert response.status_code == status


async def test_a_revoked_tokens_logins_end_at_once(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    cookies = [await log_in(edge, "token-of-anna") for _ in range(2)]
    local = await log_in(edge)
    gone = await ask(edge.application, "DELETE", f"{TOKENS}/api/anna", jwt=jwt_of())
    assert gone.status_code == 204
    for cookie in cookies:
        response = await ask(edge.application, "GET", WHOAMI, headers=[cookie])
        assert (response.status_code, problem(response)) == (401, "login_ended")
    assert (await ask(edge.application, "GET", WHOAMI, headers=[local])).status_code == 200


async def test_a_token_revoked_elsewhere_ends_its_logins_too(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    cookie = await log_in(edge, "token-of-anna")
    del edge.store.api_tokens["anna"]
    for reason in ("revoked_token", "login_ended"):
        response = await ask(edge.application, "GET", WHOAMI, headers=[cookie])
        assert (response.status_code, problem(response)) == (401, reason)


async def test_logins_last_while_the_store_is_away(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    cookie = await log_in(edge, "token-of-anna")
    edge.store.away = True
    assert (await ask(edge.application, "GET", WHOAMI, headers=[cookie])).status_code == 200


async def test_too_many_logins_are_refused(edge: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("proxy.admin.logins.Logins.begin", lambda *_: None)
    response = await ask(edge.application, "POST", LOGIN, json={"token": LOCAL_TOKEN})
    assert (response.status_code, problem(response)) == (503, "too_many_logins")


# Making and revoking tokens


async def make(edge: Edge, body: Any, token: str | None = None) -> httpx.Response:
    return await ask(edge.application, "POST", TOKENS, jwt=token or jwt_of(), json=body)


async def test_a_token_is_made_and_told_once(edge: Edge) -> None:
    response = await make(edge, {"kind": "api", "name": "anna", "scopes": ["pair", "read"]})
    assert response.status_code == 201, response.text
    assert response.headers["cache-control"] == "no-store"
    token = response.json()["token"]
    assert token.startswith("moonhost-api-")
    assert (await exchange(edge, token)).json()["scope"] == "read pair"
    listed = await ask(edge.application, "GET", TOKENS, jwt=jwt_of())
    (item,) = listed.json()["items"]
    assert (item["kind"], item["name"], item["scopes"]) == ("api", "anna", ["read", "pair"])
    assert token not in listed.text
    assert token_hash(token).hex() not in listed.text


@pytest.mark.parametrize("name", ["living-room", "local"])
async def test_an_agents_token_is_made(edge: Edge, name: str) -> None:
    response = await make(edge, {"kind": "agent", "name": name})
    assert response.status_code == 201
    token = response.json()["token"]
    assert await edge.fleet.authenticate(token) == name
    (item,) = (await ask(edge.application, "GET", TOKENS, jwt=jwt_of())).json()["items"]
    assert (item["kind"], item["name"], item["tokens"]) == ("agent", name, 1)


@pytest.mark.parametrize(
    ("body", "status", "reason"),
    [
        ({"kind": "api", "name": "a b", "scopes": ["read"]}, 400, "bad_name"),
        ({"kind": "api", "name": "local", "scopes": ["read"]}, 400, "bad_name"),
        ({"kind": "agent", "name": ""}, 400, "bad_name"),
        ({"kind": "agent", "name": "x", "scopes": ["read"]}, 400, "bad_scopes"),
        ({"kind": "api", "name": "x"}, 400, "bad_scopes"),
        ({"kind": "api", "name": "x", "scopes": []}, 400, "bad_scopes"),
        ({"kind": "api", "name": "x", "scopes": ["root"]}, 400, "bad_body"),
        ({"kind": "edge", "name": "x"}, 400, "bad_body"),
        ({"kind": "api", "name": "taken", "scopes": ["read"]}, 409, "token_exists"),
    ],
)
async def test_a_token_that_makes_no_sense_is_not_made(
    edge: Edge, body: Any, status: int, reason: str
) -> None:
    granted(edge.store, "taken", Scope.READ)
    response = await make(edge, body)
    assert (response.status_code, problem(response)) == (status, reason)
    assert edge.store.api_tokens.keys() == {"taken"}
    assert edge.store.tokens == {}


@pytest.mark.parametrize("scope", [Scope.READ, Scope.PAIR, Scope.OPERATE])
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", TOKENS),
        ("POST", TOKENS),
        ("DELETE", f"{TOKENS}/api/x"),
        ("POST", "/api/v1/keys/rotate"),
    ],
)
async def test_only_admins_see_and_change_tokens(
    edge: Edge, method: str, path: str, scope: Scope
) -> None:
    token = jwt_of(granted(edge.store, "anna", scope))
    response = await ask(edge.application, method, path, jwt=token)
    assert (response.status_code, problem(response)) == (403, "insufficient_scope")


async def test_revoking_an_agent_ends_its_tunnel(edge: Edge, nursery: trio.Nursery) -> None:
    tunnel = FakeTunnel(nursery, "agent-2")
    edge.store.tokens[token_hash("t")] = "agent-2"
    async with serving(edge.fleet, tunnel):
        response = await ask(edge.application, "DELETE", f"{TOKENS}/agent/agent-2", jwt=jwt_of())
        assert response.status_code == 204
        assert tunnel.closed_with == (4007, "token_revoked")
    assert await edge.fleet.authenticate("t") is None


async def test_an_agent_that_was_just_revoked_is_not_taken(
    edge: Edge, nursery: trio.Nursery, autojump_clock: trio.testing.MockClock
) -> None:
    """Its handshake may have begun when its token was still good."""
    edge.fleet.dismiss("agent-2")
    tunnel = FakeTunnel(nursery, "agent-2")
    with trio.fail_after(5):
        await edge.fleet.serve_agent(tunnel.as_tunnel())
    assert edge.fleet.tunnel_of("agent-2") is None
    await trio.sleep(31)
    async with serving(edge.fleet, tunnel):
        assert edge.fleet.tunnel_of("agent-2") is tunnel.as_tunnel()


@pytest.mark.parametrize("what", ["api/nobody", "agent/nobody", "api/local"])
async def test_nothing_is_revoked_that_is_not_there(edge: Edge, what: str) -> None:
    response = await ask(edge.application, "DELETE", f"{TOKENS}/{what}", jwt=jwt_of())
    assert (response.status_code, problem(response)) == (404, "no_such_token")
    assert (await exchange(edge, LOCAL_TOKEN)).status_code == 200


# Keys


async def test_the_key_set_is_anybodys_and_holds_no_private_key(edge: Edge) -> None:
    response = await ask(edge.application, "GET", "/.well-known/jwks.json")
    assert response.headers["cache-control"] == "public, max-age=300"
    (key,) = response.json()["keys"]
    assert key.keys() == {"kty", "use", "alg", "kid", "n", "e"}
    token = (await exchange(edge, LOCAL_TOKEN)).json()["access_token"]
    verifier = jwt.PyJWK(key)
    assert verifier.key_id == KID
    jwt.decode(token, verifier, ["RS256"], audience="moonhost-admin")


async def test_keys_are_rotated_by_hand_and_not_twice_at_once(edge: Edge) -> None:
    response = await ask(edge.application, "POST", "/api/v1/keys/rotate", jwt=jwt_of())
    kid = response.json()["kid"]
    keys = (await ask(edge.application, "GET", "/.well-known/jwks.json")).json()["keys"]
    assert [key["kid"] for key in keys] == [KID, kid]
    token = (await exchange(edge, LOCAL_TOKEN)).json()["access_token"]
    assert jwt.get_unverified_header(token)["kid"] == KID
    again = await ask(edge.application, "POST", "/api/v1/keys/rotate", jwt=jwt_of())
    assert (again.status_code, problem(again)) == (409, "rotation_under_way")


async def test_an_edge_makes_its_first_key_and_shares_it() -> None:
    store = FakeStore()
    first, second = (SigningKeys(store, rotation_rules(timedelta(days=30))) for _ in range(2))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(first.load)
        nursery.start_soon(second.load)
    assert len(store.signing_keys) == 1
    assert first.signer().kid == second.signer().kid
    assert first.published().keys() == store.signing_keys.keys()


async def test_a_key_is_changed_when_it_is_old(monkeypatch: pytest.MonkeyPatch) -> None:
    names = iter(("first", "second"))
    monkeypatch.setattr(signing_keys, "generate_private_key", lambda *_: signing_key(next(names)))
    store = FakeStore()
    at = datetime(2026, 11, 23, tzinfo=UTC)
    kept = SigningKeys(store, rotation_rules(timedelta(days=30)), now=lambda: at)
    await kept.load()
    (first,) = store.signing_keys
    at += timedelta(days=30)
    with structlog.testing.capture_logs() as events:
        await kept.load()
    _, second = store.signing_keys
    assert events == [{"event": "signing_key_made", "kid": second, "log_level": "info"}]
    assert kept.signer().kid == first
    at += timedelta(seconds=600)
    assert kept.signer().kid == second
    assert kept.published().keys() == {first, second}
    at += timedelta(seconds=365)
    await kept.load()
    assert kept.published().keys() == {second} == store.signing_keys.keys()


async def test_keys_of_other_edges_are_followed(
    autojump_clock: trio.testing.MockClock,
) -> None:
    store = FakeStore()
    store.signing_keys[KID] = key_record()
    kept = SigningKeys(store, rotation_rules(timedelta(days=30)))
    await kept.load()
    another = key_record("another", age=timedelta())
    store.signing_keys["another"] = another
    kept._private["another"] = signing_key("another")  # threads and this clock don't mix
    with trio.move_on_after(31):
        await kept.watch()
    assert kept.published().keys() == {KID, "another"}


async def test_a_damaged_key_is_told() -> None:
    store = FakeStore()
    store.signing_keys[KID] = replace(key_record(), private_key_pem=b"-----BEGIN")
    with pytest.raises(StoreError, match="damaged"):
        await SigningKeys(store, rotation_rules(timedelta(days=30))).load()


async def test_keys_outlive_a_store_that_is_away(autojump_clock: trio.testing.MockClock) -> None:
    store = FakeStore()
    store.signing_keys[KID] = key_record()
    kept = SigningKeys(store, rotation_rules(timedelta(days=30)))
    await kept.load()
    store.away = True
    with structlog.testing.capture_logs() as events:
        for _ in range(2):
            with trio.move_on_after(100):
                await kept.watch()
    assert [event["event"] for event in events] == ["signing_keys_unavailable"]
    assert kept.published().keys() == store.signing_keys.keys()
    with pytest.raises(StoreError):
        await kept.rotate()


async def test_of_two_edges_that_rotate_at_once_one_is_told_of_the_other() -> None:
    store = FakeStore()
    first, second = (SigningKeys(store, rotation_rules(timedelta(days=30))) for _ in range(2))
    await first.load()
    await second.load()
    outcomes: list[str] = []

    async def rotate(keys: SigningKeys) -> None:
        try:
            outcomes.append(await keys.rotate())
        except Refused as error:
            outcomes.append(error.reason)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(rotate, first)
        nursery.start_soon(rotate, second)
    assert outcomes.count("rotation_under_way") == 1
    assert len(store.signing_keys) == 2


# Secrets


async def test_no_token_jwt_or_cookie_is_in_a_log_or_an_answer(
    edge: Edge, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as events:
        made = await make(edge, {"kind": "api", "name": "anna", "scopes": ["admin"]})
        token = made.json()["token"]
        exchanged = await exchange(edge, token)
        access = exchanged.json()["access_token"]
        login = await ask(edge.application, "POST", LOGIN, json={"token": token})
        cookie = cookie_of(login)
        wrong = "moonhost-api-almost-right"
        answers = [
            await exchange(edge, wrong),
            await exchange(edge, token, {"scopes": [wrong]}),
            await ask(edge.application, "POST", LOGIN, json={"token": wrong}),
            await ask(edge.application, "POST", LOGIN, json={"token": wrong, "more": wrong}),
            await ask(edge.application, "GET", CLIENTS, jwt=access),
            await ask(edge.application, "GET", CLIENTS, jwt=access + "x"),
            await ask(edge.application, "GET", CLIENTS, headers=[cookie]),
            await ask(edge.application, "DELETE", CLIENTS + "/x", headers=[cookie]),
            await ask(edge.application, "DELETE", f"{TOKENS}/api/anna", jwt=access),
            await ask(edge.application, "GET", CLIENTS, jwt=access),
            await ask(edge.application, "GET", CLIENTS, headers=[cookie]),
        ]
        edge.store.away = True
        answers.append(await exchange(edge, token))
        answers.append(await ask(edge.application, "GET", CLIENTS, jwt=jwt_of()))
    assert {answer.status_code for answer in answers} == {200, 204, 400, 401, 403, 503}
    shown = [answer.text + str(answer.headers) for answer in answers]
    logged = [str(events), *(record.getMessage() for record in caplog.records)]
    secrets = [token, access, access.split(".")[2], cookie[1].partition("=")[2], wrong]
    for text in (*shown, *logged):
        for secret in (*secrets, LOCAL_TOKEN, token_hash(token).hex()):
            assert secret not in text
    assert {"token_made", "token_revoked", "admin_logged_in", "admin_token_wrong"} <= {
        event["event"] for event in events
    }


def test_a_token_is_in_no_repr() -> None:
    assert "moonhost-api-x" not in repr(ShownToken("moonhost-api-x"))


async def test_keys_may_be_read_while_others_are_still_loaded() -> None:
    store = FakeStore()
    oldest, old, new = (
        key_record(kid, age=timedelta(minutes=age))
        for kid, age in ((KID, 9), ("old-key", 6), ("new-key", 3))
    )
    store.signing_keys = {record.kid: record for record in (oldest, old)}
    kept = SigningKeys(store, rotation_rules(timedelta(days=30)))
    await kept.load()
    readings = [[oldest, old, new], [old]]
    read = trio.Event()

    async def list_signing_keys() -> Any:
        read.set()
        return readings.pop(0)

    store.list_signing_keys = list_signing_keys  # type: ignore[method-assign]
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.load)
        await read.wait()
        # The oldest has gone when this is read, and is still among those of the first reading.
        await kept.load()
    assert readings == []
    assert new.kid in kept.published()
