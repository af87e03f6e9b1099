"""The admin API's tokens: getting JWTs, making and revoking long-lived tokens, keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Final, Literal

import msgspec
import structlog

from backends.store import Store
from backends.tokens import new_agent_token, new_api_token, token_hash
from proxy.admin import jwts
from proxy.admin.api_tokens import add_api_token, check_agent_name, check_name, scopes_of
from proxy.admin.credentials import bearer_of
from proxy.admin.denials import Denial, denied, lacks_scope
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.logins import Logins
from proxy.admin.paging import Page, PageQuery, page
from proxy.admin.scopes import ADMINS, ANYBODY, Scope, implied_by, in_order, known_scopes
from proxy.admin.signing_keys import SigningKeys
from proxy.admin.token_check import TokenCheck, refusals
from proxy.admin.values import Time, max_id_characters
from proxy.errors import Refused

_log = structlog.get_logger()

TokenKind = Literal["api", "agent"]
_holder_path: Final = "/api/v1/tokens/{kind}/{name}"


class Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a JWT is to be."""

    scopes: Annotated[
        list[Scope] | None, msgspec.Meta(description="Some of the token's; null: all.")
    ] = None
    single_use: Annotated[bool, msgspec.Meta(description="It is good for one request.")] = False


class AccessToken(msgspec.Struct, frozen=True):
    """A JWT, as OAuth 2.0 writes it (RFC 6749, 5.1)."""

    access_token: str
    token_type: Literal["Bearer"]
    expires_in: Annotated[int, msgspec.Meta(description="Seconds.")]
    scope: Annotated[str, msgspec.Meta(description="Scopes with spaces between them.")]

    def __repr__(self) -> str:
        return "AccessToken(…)"


class TokenItem(msgspec.Struct, frozen=True):
    """Somebody who holds tokens."""

    kind: TokenKind
    name: str
    scopes: list[Scope]
    created_at: Time
    tokens: Annotated[int, msgspec.Meta(description="How many of that name are good.")]


class TokenWish(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Whom a token is for."""

    kind: TokenKind
    name: str
    scopes: Annotated[
        list[Scope] | None, msgspec.Meta(description="Of a token of the kind `api`.")
    ] = None


class NewToken(msgspec.Struct, frozen=True):
    """A token, shown this once."""

    kind: TokenKind
    name: str
    token: str

    def __repr__(self) -> str:
        return f"NewToken({self.kind!r}, {self.name!r}, …)"


class TokenName(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The path of one holder's tokens."""

    kind: Annotated[TokenKind, msgspec.Meta(description="`api` or `agent`.")]
    name: Annotated[
        str,
        msgspec.Meta(min_length=1, max_length=max_id_characters, description="As the list shows."),
    ]


class NewKey(msgspec.Struct, frozen=True):
    """A key that signs soon."""

    kid: str


class KeySet(msgspec.Struct, frozen=True):
    """Keys to verify JWTs with (RFC 7517)."""

    keys: list[dict[str, str]]


class TokensApi:
    """What may be asked about tokens; `dismiss` ends an agent's tunnel, if it is connected."""

    def __init__(
        self,
        store: Store,
        check: TokenCheck,
        keys: SigningKeys,
        logins: Logins,
        *,
        issuer: str,
        run: str,
        dismiss: Callable[[str], None],
    ) -> None:
        self._store = store
        self._check = check
        self._keys = keys
        self._logins = logins
        self._issuer = issuer
        self._run = run
        self._dismiss = dismiss

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint(
                "POST",
                "/api/v1/token",
                self.exchange_token,
                ANYBODY,
                problems={**refusals, 400: ("bad_scopes",), 403: ("insufficient_scope",)},
                example={"scopes": ["read"], "single_use": False},
            ),
            Endpoint("GET", "/api/v1/tokens", self.list_tokens, ADMINS),
            Endpoint(
                "POST",
                "/api/v1/tokens",
                self.make_token,
                ADMINS,
                problems={400: ("bad_name", "bad_scopes"), 409: ("token_exists",)},
                example={"kind": "api", "name": "anna", "scopes": ["read"]},
                status=201,
            ),
            Endpoint(
                "DELETE",
                _holder_path,
                self.revoke_token,
                ADMINS,
                problems={404: ("no_such_token",)},
            ),
            Endpoint(
                "POST",
                "/api/v1/keys/rotate",
                self.rotate_keys,
                ADMINS,
                problems={409: ("rotation_under_way",)},
            ),
            Endpoint("GET", "/.well-known/jwks.json", self.show_keys, ANYBODY),
        ]

    async def exchange_token(
        self, asked: Asked[NoParameters, NoParameters, Exchange]
    ) -> AccessToken:
        """Get a JWT of five minutes for a long-lived token, shown as `Authorization: Bearer`."""
        token = bearer_of(asked.request.headers.getlist("authorization"))
        if token is None:
            raise denied(Denial.NO_CREDENTIALS)
        wanted = None if asked.body.scopes is None else scopes_of(asked.body.scopes)
        grant = await self._check.check(token, asked.request)
        scopes = grant.scopes if wanted is None else wanted
        if not scopes <= implied_by(grant.scopes):
            raise lacks_scope(scopes)
        jwt = jwts.issue(
            grant,
            scopes,
            signer=self._keys.signer(),
            issuer=self._issuer,
            now=datetime.now(UTC),
            single_use_at=self._run if asked.body.single_use else None,
        )
        lifetime_s = int(jwts.lifetime.total_seconds())
        return AccessToken(jwt, "Bearer", lifetime_s, " ".join(in_order(scopes)))

    async def list_tokens(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[TokenItem]:
        """List who holds tokens, people and programs first."""
        held = [
            TokenItem("api", one.name, in_order(known_scopes(one.scopes)), one.created_at, 1)
            for one in await self._store.list_api_tokens()
        ]
        held += [
            TokenItem("agent", agent.agent_id, [], agent.created_at, agent.tokens)
            for agent in await self._store.list_agents()
        ]
        return page(held, lambda one: (int(one.kind == "agent"), one.name), asked.query)

    async def make_token(self, asked: Asked[NoParameters, NoParameters, TokenWish]) -> NewToken:
        """Make a token and show it, this once."""
        wish = asked.body
        if wish.kind == "api":
            check_name(wish.name)
            token = new_api_token()
            await add_api_token(self._store, wish.name, scopes_of(wish.scopes or ()), token)
        else:
            check_agent_name(wish.name)
            if wish.scopes:
                raise Refused(400, "bad_scopes", "An agent's token has no scopes.")
            token = new_agent_token()
            await self._store.put_agent_token(wish.name, token_hash(token), datetime.now(UTC))
        _log.info("token_made", kind=wish.kind, name=wish.name, by=asked.caller.name)
        return NewToken(wish.kind, wish.name, token)

    async def revoke_token(self, asked: Asked[TokenName, NoParameters, None]) -> None:
        """Make all tokens of a name worthless, with whatever they have opened."""
        kind, name = asked.path.kind, asked.path.name
        if kind == "api":
            revoked = await self._store.delete_api_token(name)
            self._logins.end_all_of(name)
        else:
            revoked = await self._store.revoke_agent(name)
            self._dismiss(name)
        if not revoked:
            raise Refused(404, "no_such_token", "There is no token of that kind and name.")
        _log.info("token_revoked", kind=kind, name=name, by=asked.caller.name)

    async def rotate_keys(self, asked: Asked[NoParameters, NoParameters, None]) -> NewKey:
        """Publish a new key, which JWTs are signed with once verifiers can know it."""
        return NewKey(await self._keys.rotate())

    async def show_keys(self, asked: Asked[NoParameters, NoParameters, None]) -> KeySet:
        """Give the keys that JWTs are verified with."""
        asked.answer_headers["Cache-Control"] = f"public, max-age={self._keys.max_age_s}"
        return KeySet(self._keys.key_set())
