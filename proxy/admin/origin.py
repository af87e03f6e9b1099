"""Whether a request comes from a page of the API itself: no other site's page may ask anything.

Browsers name the page's origin in the Origin header when a request changes something, and its
relation to us in Sec-Fetch-Site. The origin is ours if its host and port are those that the
request was sent to, by its Host header. The scheme is not compared where the edge itself speaks
plain HTTP, since a proxy before it may end TLS: ``https://admin.example.org`` fits the Host
``admin.example.org``. Such a proxy has to hand on the Host header.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

safe_methods: Final = frozenset({"GET", "HEAD", "OPTIONS"})
_max_characters: Final = 300
_host: Final = r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::(?P<port>[0-9]{1,5}))?"
_origin: Final = re.compile(rf"(?P<scheme>https?)://{_host}")
_authority: Final = re.compile(_host)
_default_port: Final = {"http": 80, "https": 443}
_own_sites: Final = frozenset({"same-origin", "none"})


@dataclass(frozen=True, slots=True)
class Provenance:
    """What a request's headers tell of the page that sent it: all values of each header."""

    origin: Sequence[str] = ()
    host: Sequence[str] = ()
    sec_fetch_site: Sequence[str] = ()
    with_cookie: bool = False
    over_tls: bool = False
    """To the edge itself."""


def is_foreign(method: str, told: Provenance) -> bool:
    """Tell whether a request must be refused because of where it comes from.

    A change that comes with our cookie has to prove that it is from a page of ours. Without the
    cookie it may say nothing, as programs do; what it says must be right.
    """
    if told.origin:
        if not _is_own(told):
            return True
    elif method not in safe_methods and told.with_cookie:
        return tuple(told.sec_fetch_site) != ("same-origin",)
    return method not in safe_methods and not _own_sites.issuperset(told.sec_fetch_site)


def _is_own(told: Provenance) -> bool:
    if len(told.origin) != 1 or len(told.host) != 1:
        return False
    origin = _origin.fullmatch(told.origin[0][:_max_characters])
    host = _authority.fullmatch(told.host[0][:_max_characters])
    if origin is None or host is None or origin["host"].lower() != host["host"].lower():
        return False
    if told.over_tls and origin["scheme"] != "https":
        return False
    default = _default_port[origin["scheme"]]
    return int(origin["port"] or default) == int(host["port"] or default)
