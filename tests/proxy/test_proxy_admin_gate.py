"""Whom the admin API turns away, and what they are told."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from datetime import UTC, datetime, timedelta
from typing import Any

import jwt
import pytest
import structlog.testing
import trio
from admin_access import (
    KID,
    LOCAL_TOKEN,
    ask,
    authority_over,
    granted,
    jwt_of,
    key_record,
    signing_key,
)
from cryptography.hazmat.primitives import serialization
from proxy_fakes import FakeStore
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from test_proxy_admin import Edge, edge, problem

from backends.tokens import token_hash
from proxy.admin import http as admin_http
from proxy.admin import jwts
from proxy.admin.authority import Authority
from proxy.admin.credentials import cookie_name
from proxy.admin.denials import Denial
from proxy.admin.grants import Grant
from proxy.admin.scopes import READERS, Scope
from proxy.admin.used_once import UsedOnce
from proxy.errors import Refused

__all__ = ["edge"]

CLIENTS = "/api/v1/clients"
SESSION = "/api/v1/sessions/x"
WHOAMI = "/api/v1/whoami"


def now() -> datetime:
    return datetime.now(UTC)


def claims(**changed: Any) -> dict[str, Any]:
    """What a good JWT of the local operator says; None takes a claim away."""
    said = jwt.decode(jwt_of(), options={"verify_signature": False})
    return {name: value for name, value in {**said, **changed}.items() if value is not None}


def signed(said: dict[str, Any], kid: str | None = KID, key: str = KID) -> str:
    headers = {} if kid is None else {"kid": kid}
    return jwt.encode(said, signing_key(key), "RS256", headers=headers)


def assembled(header: dict[str, Any], said: dict[str, Any], secret: bytes | None) -> str:
    """A JWT made by hand, as PyJWT refuses to make it."""
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=") for part in (header, said)
    ]
    mac = b"" if secret is None else hmac.digest(secret, b".".join(parts), hashlib.sha256)
    return b".".join([*parts, base64.urlsafe_b64encode(mac).rstrip(b"=")]).decode()


def public_pem() -> bytes:
    return (
        signing_key(KID)
        .public_key()
        .public_bytes(serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)
    )


async def refusal(edge: Edge, token: str, path: str = CLIENTS) -> str:
    """Why a JWT is refused; nothing of it is in the answer or in a log."""
    with structlog.testing.capture_logs() as events:
        response = await ask(edge.application, "GET", path, jwt=token)
    assert response.status_code == 401, response.text
    assert 'error="invalid_token"' in response.headers["www-authenticate"]
    for part in token.split("."):
        assert not part or part not in response.text + str(response.headers) + str(events)
    return problem(response)


async def test_a_jwt_admits_to_what_its_scopes_say(edge: Edge) -> None:
    response = await ask(edge.application, "GET", CLIENTS, jwt=jwt_of())
    assert response.status_code == 200
    reader = jwt_of(granted(edge.store, "anna", Scope.READ))
    assert (await ask(edge.application, "GET", CLIENTS, jwt=reader)).status_code == 200
    told = (await ask(edge.application, "GET", WHOAMI, jwt=reader)).json()
    assert (told["name"], told["scopes"]) == ("anna", ["read"])
    assert datetime.fromisoformat(told["expires_at"]) > now()


async def test_a_jwt_can_be_used_again(edge: Edge) -> None:
    token = jwt_of()
    for _ in range(3):
        assert (await ask(edge.application, "GET", CLIENTS, jwt=token)).status_code == 200


async def test_who_shows_nothing_is_told_how(edge: Edge) -> None:
    response = await ask(edge.application, "GET", CLIENTS)
    assert (response.status_code, problem(response)) == (401, "unauthorized")
    assert response.headers["www-authenticate"] == 'Bearer realm="moonhost"'


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"exp": -6, "iat": -306, "nbf": -306}, Denial.EXPIRED),
        ({"nbf": 10}, Denial.NOT_YET_VALID),
        ({"iat": 10}, Denial.NOT_YET_VALID),
    ],
)
async def test_a_jwt_is_good_at_its_time(
    edge: Edge, changed: dict[str, int], reason: Denial
) -> None:
    at = int(now().timestamp())
    token = signed(claims(**{name: at + offset for name, offset in changed.items()}))
    assert await refusal(edge, token) == reason


async def test_clocks_may_be_a_little_apart(edge: Edge) -> None:
    at = int(now().timestamp())
    for changed in ({"exp": at - 2}, {"nbf": at + 3, "iat": at + 3}):
        response = await ask(edge.application, "GET", CLIENTS, jwt=signed(claims(**changed)))
        assert response.status_code == 200


@pytest.mark.parametrize(
    ("changed", "reason"),
    [
        ({"aud": "moonhost-agent"}, Denial.WRONG_AUDIENCE),
        ({"aud": ["moonhost-admin", "other"]}, Denial.WRONG_AUDIENCE),
        ({"iss": "elsewhere.example.org"}, Denial.WRONG_ISSUER),
        ({"scope": 7}, Denial.MISSING_CLAIM),
        ({"scope": ["admin"]}, Denial.MISSING_CLAIM),
        ({"sub": 7}, Denial.MISSING_CLAIM),
        ({"jti": 7}, Denial.MISSING_CLAIM),
        ({"tid": 7}, Denial.MISSING_CLAIM),
        ({"single_use_at": 7}, Denial.MISSING_CLAIM),
        ({"single_use_at": False}, Denial.MISSING_CLAIM),
        ({"exp": "9999999999"}, Denial.MISSING_CLAIM),
        ({"exp": 10**12}, Denial.MISSING_CLAIM),
        ({"exp": 10**30}, Denial.MISSING_CLAIM),
        ({"tid": "0" * 16}, Denial.REVOKED),
        ({"sub": "nobody"}, Denial.REVOKED),
    ],
)
async def test_a_jwt_says_whom_and_what_it_is_for(
    edge: Edge, changed: dict[str, Any], reason: Denial
) -> None:
    assert await refusal(edge, signed(claims(**changed))) == reason


@pytest.mark.parametrize("name", ["iss", "aud", "sub", "tid", "scope", "iat", "nbf", "exp", "jti"])
async def test_no_claim_may_be_missing(edge: Edge, name: str) -> None:
    assert await refusal(edge, signed(claims(**{name: None}))) in {
        Denial.MISSING_CLAIM,
        Denial.WRONG_AUDIENCE,
    }


async def test_only_rs256_counts(edge: Edge) -> None:
    said = claims()
    for algorithm in ("none", "None", "NONE"):
        token = assembled({"alg": algorithm, "kid": KID}, said, None)
        assert await refusal(edge, token) in {Denial.BAD_SIGNATURE, Denial.MALFORMED}
    confused = assembled({"alg": "HS256", "kid": KID, "typ": "JWT"}, said, public_pem())
    assert await refusal(edge, confused) == Denial.BAD_SIGNATURE
    for algorithm in ("RS512", "PS256"):
        token = jwt.encode(said, signing_key(KID), algorithm, headers={"kid": KID})
        assert await refusal(edge, token) == Denial.BAD_SIGNATURE


async def test_a_key_must_be_named_and_known(edge: Edge) -> None:
    said = claims()
    assert await refusal(edge, signed(said, kid=None)) == Denial.UNKNOWN_KEY
    assert await refusal(edge, signed(said, kid="another", key="another")) == Denial.UNKNOWN_KEY
    assert await refusal(edge, signed(said, kid=KID, key="another")) == Denial.BAD_SIGNATURE


async def test_what_was_changed_is_not_believed(edge: Edge) -> None:
    header, _, signature = jwt_of(granted(edge.store, "anna", Scope.READ)).split(".")
    forged = jwt_of().split(".")[1]
    assert await refusal(edge, f"{header}.{forged}.{signature}") == Denial.BAD_SIGNATURE


@pytest.mark.parametrize(
    "token",
    [
        "x",
        "a.b",
        "a.b.c.d",
        "..",
        "e30.e30.",
        "bnVsbA.e30.eA",
        "W10.e30.eA",
        "é",
        "a" * 5_000,
        "eyJhbGciOiJSUzI1NiIsImtpZCI6W119.e30.eA",
        base64.urlsafe_b64encode(b"[" * 2_900).decode().rstrip("=") + ".e30.eA",
        "a" * 4_000 + ".b.c",
    ],
)
async def test_what_is_no_jwt_is_refused_as_that(edge: Edge, token: str) -> None:
    response = await ask(
        edge.application, "GET", CLIENTS, headers=[("Authorization", f"Bearer {token}")]
    )
    assert response.status_code == 401
    assert problem(response) in {Denial.MALFORMED, Denial.UNKNOWN_KEY, Denial.MISSING_CLAIM}


async def test_long_lived_tokens_are_no_jwts(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.ADMIN)
    for token in (LOCAL_TOKEN, "token-of-anna"):
        assert await refusal(edge, token) == Denial.MALFORMED


async def test_two_credentials_are_none(edge: Edge) -> None:
    twice = [("Authorization", f"Bearer {jwt_of()}"), ("Authorization", f"Bearer {jwt_of()}")]
    response = await ask(edge.application, "GET", CLIENTS, headers=twice)
    assert (response.status_code, problem(response)) == (401, Denial.MALFORMED)


async def test_who_may_not_do_something_is_told_what_it_takes(edge: Edge) -> None:
    reader = jwt_of(granted(edge.store, "anna", Scope.READ))
    response = await ask(edge.application, "DELETE", SESSION, jwt=reader)
    assert (response.status_code, problem(response)) == (403, "insufficient_scope")
    challenge = response.headers["www-authenticate"]
    assert 'error="insufficient_scope", scope="operate admin"' in challenge
    pairer = jwt_of(granted(edge.store, "bob", Scope.PAIR))
    assert (await ask(edge.application, "GET", CLIENTS, jwt=pairer)).status_code == 403
    assert (await ask(edge.application, "GET", "/api/v1/pairings", jwt=pairer)).status_code == 200


async def test_operators_may_read_and_admins_may_all(edge: Edge) -> None:
    operator = jwt_of(granted(edge.store, "op", Scope.OPERATE))
    assert (await ask(edge.application, "GET", CLIENTS, jwt=operator)).status_code == 200
    assert (await ask(edge.application, "DELETE", SESSION, jwt=operator)).status_code == 404
    admin = jwt_of(granted(edge.store, "boss", Scope.ADMIN))
    assert (await ask(edge.application, "DELETE", SESSION, jwt=admin)).status_code == 404
    assert (await ask(edge.application, "GET", "/api/v1/tokens", jwt=operator)).status_code == 403


async def test_no_jwt_says_more_than_its_token(edge: Edge) -> None:
    reader = granted(edge.store, "anna", Scope.READ)
    bold = Grant(reader.name, reader.token_id, frozenset({Scope.ADMIN}))
    response = await ask(edge.application, "DELETE", SESSION, jwt=jwt_of(bold))
    assert problem(response) == "insufficient_scope"


async def test_a_revoked_tokens_jwts_are_worthless_at_once(edge: Edge) -> None:
    token = jwt_of(granted(edge.store, "anna", Scope.READ))
    assert (await ask(edge.application, "GET", CLIENTS, jwt=token)).status_code == 200
    del edge.store.api_tokens["anna"]
    assert await refusal(edge, token) == Denial.REVOKED


async def test_a_new_token_of_its_name_does_not_bring_a_jwt_back(edge: Edge) -> None:
    old = granted(edge.store, "anna", Scope.ADMIN)
    token = jwt_of(Grant(old.name, "another-token-s-id", old.scopes))
    assert await refusal(edge, token) == Denial.REVOKED


async def test_valid_jwts_are_believed_while_the_store_is_away(edge: Edge) -> None:
    """What needs no store goes on: operators need the API most when something is down."""
    tokens = [jwt_of(), jwt_of(granted(edge.store, "anna", Scope.READ))]
    edge.store.away = True
    for token in tokens:
        response = await ask(edge.application, "GET", "/api/v1/sessions", jwt=token)
        assert response.status_code == 200
    expired = jwt_of(now=now() - timedelta(minutes=6))
    assert await refusal(edge, expired) == Denial.EXPIRED


async def test_a_store_that_hangs_is_not_waited_for(
    edge: Edge, autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = jwt_of(granted(edge.store, "anna", Scope.READ))

    async def hang(name: str) -> None:
        await trio.sleep_forever()

    monkeypatch.setattr(edge.store, "get_api_token", hang)
    began_at = trio.current_time()
    response = await ask(edge.application, "GET", "/api/v1/sessions", jwt=token)
    assert response.status_code == 200
    assert trio.current_time() - began_at < 3


# Single use


async def single_use_jwt(edge: Edge) -> str:
    response = await ask(
        edge.application, "POST", "/api/v1/token", jwt=LOCAL_TOKEN, json={"single_use": True}
    )
    return str(response.json()["access_token"])


async def test_a_jwt_for_single_use_is_used_once(edge: Edge) -> None:
    token = await single_use_jwt(edge)
    assert (await ask(edge.application, "GET", CLIENTS, jwt=token)).status_code == 200
    assert await refusal(edge, token) == Denial.USED
    another = await single_use_jwt(edge)
    assert (await ask(edge.application, "GET", CLIENTS, jwt=another)).status_code == 200


async def test_a_jwt_for_single_use_is_not_used_up_by_what_it_may_not_do(edge: Edge) -> None:
    granted(edge.store, "anna", Scope.READ)
    response = await ask(
        edge.application, "POST", "/api/v1/token", jwt="token-of-anna", json={"single_use": True}
    )
    token = response.json()["access_token"]
    assert (await ask(edge.application, "DELETE", SESSION, jwt=token)).status_code == 403
    assert (await ask(edge.application, "GET", CLIENTS, jwt=token)).status_code == 200


async def test_no_other_edge_and_no_later_run_takes_a_jwt_for_single_use(edge: Edge) -> None:
    """It could not know whether it was used."""
    assert await refusal(edge, jwt_of(single_use_at="an-earlier-run")) == Denial.USED


async def test_without_room_for_more_ids_nothing_is_forgotten(
    edge: Edge, authority: Authority
) -> None:
    authority.gate._used = UsedOnce(max_ids=1)
    for status, reason in ((200, None), (503, Denial.NO_ROOM)):
        response = await ask(authority_app(authority), "GET", "/", jwt=await own_jwt(authority))
        assert response.status_code == status
        if reason is not None:
            assert problem(response) == reason
            assert int(response.headers["retry-after"]) > 0


@pytest.fixture
async def authority() -> Authority:
    return await authority_over(FakeStore())


def authority_app(authority: Authority) -> Starlette:
    """An application with one page, and what an authority adds."""

    async def page(request: Request) -> Response:
        try:
            caller = await authority.gate.admit(request, READERS)
        except Refused as error:
            return admin_http.refusal(error)
        return PlainTextResponse(caller.name)

    return Starlette(routes=[Route("/", page)])


async def own_jwt(authority: Authority) -> str:
    return jwt_of(single_use_at=authority.gate._run)


# Origins


@pytest.mark.parametrize(
    ("method", "path"), [("DELETE", SESSION), ("POST", "/api/v1/token"), ("GET", CLIENTS)]
)
@pytest.mark.parametrize("origin", ["https://evil.example.org", "null", "http://edge:1"])
async def test_a_foreign_page_is_refused_whatever_it_shows(
    edge: Edge, method: str, path: str, origin: str
) -> None:
    token = LOCAL_TOKEN if path == "/api/v1/token" else jwt_of()
    response = await ask(
        edge.application, method, path, jwt=token, headers=[("Origin", origin)], json={}
    )
    assert (response.status_code, problem(response)) == (403, "foreign_origin")


async def test_refusals_are_counted(edge: Edge, authority: Authority) -> None:
    application = authority_app(authority)
    await ask(application, "GET", "/")
    await ask(application, "GET", "/", jwt="a.b.c")
    assert authority.gate.refused == {Denial.NO_CREDENTIALS: 1, Denial.MALFORMED: 1}


async def test_who_was_admitted_is_so_until_the_jwt_or_its_token_ends(
    authority: Authority,
) -> None:
    store = authority.keys._store
    assert isinstance(store, FakeStore)
    request = request_with("Authorization", f"Bearer {jwt_of(granted(store, 'anna'))}")
    caller = await authority.gate.admit(request, READERS)
    assert await authority.gate.stands(caller)
    later = now() + timedelta(minutes=6)
    authority.gate._now = lambda: later
    assert not await authority.gate.stands(caller)
    authority.gate._now = now
    del store.api_tokens["anna"]
    assert not await authority.gate.stands(caller)


async def test_who_logged_in_is_admitted_until_the_login_ends(authority: Authority) -> None:
    store = authority.keys._store
    assert isinstance(store, FakeStore)
    login = authority.gate._logins.begin(granted(store, "anna"), trio.current_time())
    assert login is not None
    caller = await authority.gate.admit(request_with("Cookie", f"{cookie_name}={login}"), READERS)
    assert login not in repr(caller)
    assert await authority.gate.stands(caller)
    authority.gate._logins.end(login)
    assert not await authority.gate.stands(caller)


def request_with(name: str, value: str) -> Request:
    headers = [(name.lower().encode(), value.encode()), (b"host", b"edge")]
    return Request(
        {
            "type": "http",
            "method": "GET",
            "scheme": "http",
            "path": "/",
            "query_string": b"",
            "server": ("edge", 80),
            "headers": headers,
        }
    )


# Keys that come and go


async def test_the_keys_before_and_after_a_rotation_are_good() -> None:
    store = FakeStore()
    store.signing_keys = {
        "old": key_record("old", age=timedelta(days=3)),
        "new": key_record("new", age=timedelta(seconds=601)),
        "next": key_record("next", age=timedelta(seconds=5)),
    }
    authority = await authority_over(store)
    application = authority_app(authority)
    assert authority.keys.signer().kid == "new"
    for kid in ("old", "new", "next"):
        token = jwt_of(signer=jwts.Signer(kid, signing_key(kid)))
        assert (await ask(application, "GET", "/", jwt=token)).status_code == 200


async def test_a_retired_key_is_none() -> None:
    store = FakeStore()
    store.signing_keys = {
        "old": key_record("old", age=timedelta(days=3)),
        "new": key_record("new", age=timedelta(hours=1)),
    }
    authority = await authority_over(store)
    assert store.signing_keys.keys() == {"new"}
    token = jwt_of(signer=jwts.Signer("old", signing_key("old")))
    response = await ask(authority_app(authority), "GET", "/", jwt=token)
    assert (response.status_code, problem(response)) == (401, Denial.UNKNOWN_KEY)


def test_the_local_grant_is_the_local_tokens() -> None:
    assert Grant.local(token_hash(LOCAL_TOKEN)).scopes == {Scope.ADMIN}
