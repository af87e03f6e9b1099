"""Reads what callers of the admin API show: the Authorization and the Cookie header."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from proxy.admin.denials import Denial, denied

cookie_name: Final = "__Host-moonhost"
"""Browsers take such a cookie from a secure page only, for this host and all paths. Chromium counts
http://127.0.0.1 and http://localhost as secure."""
max_header_characters: Final = 8_192
max_credential_characters: Final = 4_096

_credential: Final = re.compile(rf"[!-~]{{1,{max_credential_characters}}}")
_login_id: Final = re.compile(r"[A-Za-z0-9_-]{43}")


def bearer_of(values: Sequence[str]) -> str | None:
    """Return the credential of an Authorization header; None where there is no such header.

    Raises:
        proxy.errors.Refused: there are several, or it is something else than one Bearer credential.

    """
    if not values:
        return None
    scheme, _, credential = values[0][:max_header_characters].partition(" ")
    if len(values) > 1 or scheme.lower() != "bearer" or not _credential.fullmatch(credential):
        raise denied(Denial.MALFORMED)
    return credential


def login_of(values: Sequence[str]) -> str | None:
    """Return the id of the login that cookies tell; None where there is none, or no single one."""
    found = {
        value
        for header in values
        if len(header) <= max_header_characters
        for name, _, value in (pair.strip(" \t").partition("=") for pair in header.split(";"))
        if name == cookie_name and _login_id.fullmatch(value)
    }
    return found.pop() if len(found) == 1 else None


def has_cookie(values: Sequence[str]) -> bool:
    """Tell whether a browser sent our cookie, be it a good one or not."""
    return any(cookie_name in header for header in values)


def set_cookie(login: str, max_age_s: int) -> str:
    """Write the header that has a browser keep a login."""
    return f"{cookie_name}={login}; HttpOnly; Secure; SameSite=Strict; Path=/; Max-Age={max_age_s}"
