"""The admin API's part about tokens: getting JWTs, making and revoking tokens, keys."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Final, Literal

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from backends.model import is_valid_name
from backends.store import Store
from backends.tokens import new_agent_token, new_api_token, token_hash
from proxy.admin import jwts
from proxy.admin.api_tokens import add_api_token, check_name, scopes_of
from proxy.admin.credentials import bearer_of
from proxy.admin.denials import Denial, denied, lacks_scope
from proxy.admin.http import Endpoint, read_json
from proxy.admin.logins import Logins
from proxy.admin.scopes import ADMINS, ANYBODY, implied_by, in_order, known_scopes
from proxy.admin.signing_keys import SigningKeys
from proxy.admin.token_check import TokenCheck
from proxy.errors import Refused

no_store: Final = {"Cache-Control": "no-store"}

_log = structlog.get_logger()


class _Exchange(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    scopes: list[str] | None = None
    single_use: bool = False


class _NewToken(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["api", "agent"]
    name: str
    scopes: list[str] | None = None


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
        """Return what may be asked."""
        return [
            Endpoint("POST", "/api/v1/token", self._exchange, ANYBODY),
            Endpoint("GET", "/api/v1/tokens", self._list, ADMINS),
            Endpoint("POST", "/api/v1/tokens", self._make, ADMINS),
            Endpoint("DELETE", "/api/v1/tokens/{kind}/{name}", self._revoke, ADMINS),
            Endpoint("POST", "/api/v1/keys/rotate", self._rotate, ADMINS),
            Endpoint("GET", "/.well-known/jwks.json", self._key_set, ANYBODY),
        ]

    async def _exchange(self, request: Request) -> Response:
        token = bearer_of(request.headers.getlist("authorization"))
        if token is None:
            raise denied(Denial.NO_CREDENTIALS)
        body = await read_json(request, _Exchange, '{}, with "scopes" and "single_use" if you like')
        wanted = None if body.scopes is None else scopes_of(body.scopes)
        grant = await self._check.check(token, request)
        scopes = grant.scopes if wanted is None else wanted
        if not scopes <= implied_by(grant.scopes):
            raise lacks_scope(scopes)
        access_token = jwts.issue(
            grant,
            scopes,
            signer=self._keys.signer(),
            issuer=self._issuer,
            now=datetime.now(UTC),
            single_use_at=self._run if body.single_use else None,
        )
        answer = {
            "access_token": access_token,
            "token_type": "Bearer",
            "expires_in": int(jwts.lifetime.total_seconds()),
            "scope": " ".join(in_order(scopes)),
        }
        return JSONResponse(answer, headers=no_store)

    async def _list(self, request: Request) -> Response:
        items: list[dict[str, Any]] = [
            {
                "kind": "api",
                "name": token.name,
                "scopes": in_order(known_scopes(token.scopes)),
                "created_at": token.created_at.isoformat(),
                "tokens": 1,
            }
            for token in await self._store.list_api_tokens()
        ]
        items += [
            {
                "kind": "agent",
                "name": agent.agent_id,
                "scopes": [],
                "created_at": agent.created_at.isoformat(),
                "tokens": agent.tokens,
            }
            for agent in await self._store.list_agents()
        ]
        return JSONResponse({"items": items, "next": None})

    async def _make(self, request: Request) -> Response:
        body = await read_json(
            request, _NewToken, '{"kind": "api", "name": "anna", "scopes": ["read"]}'
        )
        if body.kind == "api":
            check_name(body.name)
            token = new_api_token()
            await add_api_token(self._store, body.name, scopes_of(body.scopes or ()), token)
        elif not is_valid_name(body.name):
            raise Refused(
                400, "bad_name", "An agent's name has 1-64 letters, digits, dots, dashes."
            )
        elif body.scopes:
            raise Refused(400, "bad_scopes", "An agent's token has no scopes.")
        else:
            token = new_agent_token()
            await self._store.put_agent_token(body.name, token_hash(token), datetime.now(UTC))
        by = request.state.caller.name
        _log.info("token_made", kind=body.kind, name=body.name, by=by)
        made = {"kind": body.kind, "name": body.name, "token": token}
        return JSONResponse(made, status_code=201, headers=no_store)

    async def _revoke(self, request: Request) -> Response:
        kind, name = request.path_params["kind"], request.path_params["name"]
        revoked = False
        if kind == "api":
            revoked = await self._store.delete_api_token(name)
            self._logins.end_all_of(name)
        elif kind == "agent":
            revoked = await self._store.revoke_agent(name)
            self._dismiss(name)
        if not revoked:
            raise Refused(404, "no_such_token", "There is no token of that kind and name.")
        _log.info("token_revoked", kind=kind, name=name, by=request.state.caller.name)
        return Response(status_code=204)

    async def _rotate(self, request: Request) -> Response:
        return JSONResponse({"kid": await self._keys.rotate()})

    async def _key_set(self, request: Request) -> Response:
        headers = {"Cache-Control": f"public, max-age={self._keys.max_age_s}"}
        return JSONResponse(self._keys.key_set(), headers=headers)
