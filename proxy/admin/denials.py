"""Why callers of the admin API are turned away, and what each of them is told."""

from __future__ import annotations

import math
from collections.abc import Iterable
from enum import StrEnum
from typing import Final

from proxy.admin.scopes import Scope, in_order
from proxy.errors import Refused

_challenge: Final = "WWW-Authenticate"
_realm: Final = 'Bearer realm="moonhost"'


class Denial(StrEnum):
    """A reason; also the `reason` of the problem that is answered."""

    NO_CREDENTIALS = "unauthorized"
    MALFORMED = "malformed_credentials"
    BAD_SIGNATURE = "bad_signature"
    """It is signed by another key than it says, or in another way than RS256."""
    UNKNOWN_KEY = "unknown_key"
    """No published key has its `kid`, or it has none."""
    EXPIRED = "expired_token"
    NOT_YET_VALID = "not_yet_valid"
    WRONG_AUDIENCE = "wrong_audience"
    WRONG_ISSUER = "wrong_issuer"
    MISSING_CLAIM = "missing_claim"
    REVOKED = "revoked_token"
    USED = "token_used"
    """It was good for one request."""
    NO_ROOM = "no_room_for_token"
    """So many single-use tokens were used of late that no more can be remembered."""
    LOGIN_ENDED = "login_ended"
    INSUFFICIENT_SCOPE = "insufficient_scope"
    FOREIGN_ORIGIN = "foreign_origin"


_get_another: Final = "Get another one at POST /api/v1/token."
_told: Final = {
    Denial.NO_CREDENTIALS: "Show a token from POST /api/v1/token as Authorization: Bearer.",
    Denial.MALFORMED: "The Authorization header is not Bearer with a token of POST /api/v1/token.",
    Denial.BAD_SIGNATURE: f"The token is not signed by this edge. {_get_another}",
    Denial.UNKNOWN_KEY: f"The key that the token names is not in use. {_get_another}",
    Denial.EXPIRED: f"The token has expired. {_get_another}",
    Denial.NOT_YET_VALID: "The token is not valid yet: compare the clocks.",
    Denial.WRONG_AUDIENCE: f"The token is for something else. {_get_another}",
    Denial.WRONG_ISSUER: f"The token is another edge's. {_get_another}",
    Denial.MISSING_CLAIM: f"The token lacks a claim or has a bad one. {_get_another}",
    Denial.REVOKED: "The long-lived token behind this one was revoked: ask an admin for another.",
    Denial.USED: f"The token was for one request and has been used. {_get_another}",
    Denial.NO_ROOM: "Too many single-use tokens were used of late: ask again in some minutes.",
    Denial.LOGIN_ENDED: "The login has ended: log in again.",
    Denial.FOREIGN_ORIGIN: "The request comes from another site's page. A proxy before the edge "
    "has to hand on the Host header.",
}
_status: Final = {
    Denial.NO_ROOM: 503,
    Denial.FOREIGN_ORIGIN: 403,
    Denial.INSUFFICIENT_SCOPE: 403,
}


def reasons_of(status: int) -> tuple[str, ...]:
    """Return why a caller may be answered with a status."""
    return tuple(denial for denial in Denial if _status.get(denial, 401) == status)


_no_room_retry_s: Final = 60


def denied(denial: Denial) -> Refused:
    """Return the answer to a caller that is not known, or not believed."""
    status, message = _status.get(denial, 401), _told[denial]
    headers = {}
    if denial is Denial.NO_CREDENTIALS:
        headers[_challenge] = _realm
    elif status == 401:
        headers[_challenge] = f'{_realm}, error="invalid_token", error_description="{message}"'
    elif denial is Denial.NO_ROOM:
        headers["Retry-After"] = str(_no_room_retry_s)
    return Refused(status, denial, message, headers=headers)


def wrong_token() -> Refused:
    """Return the answer to a long-lived token that there is not, or not any more."""
    message = "There is no such token. An admin makes one with `moonhost token create`."
    return Refused(
        401,
        "wrong_token",
        message,
        headers={_challenge: f'{_realm}, error="invalid_token", error_description="{message}"'},
    )


def lacks_scope(wanted: Iterable[Scope]) -> Refused:
    """Return the answer to a caller who is known and may not do this."""
    scopes = in_order(wanted)
    return Refused(
        403,
        Denial.INSUFFICIENT_SCOPE,
        f"This needs a token with one of the scopes {', '.join(scopes)}.",
        headers={_challenge: f'{_realm}, error="insufficient_scope", scope="{" ".join(scopes)}"'},
    )


def wait(seconds: float) -> Refused:
    """Return the answer to a network that has shown too many wrong tokens."""
    whole = math.ceil(seconds)
    return Refused(
        429,
        "too_many_attempts",
        f"Too many wrong tokens: wait {whole} s.",
        headers={"Retry-After": str(whole)},
    )
