"""How a webhook's receiver knows that a call is the edge's, and new: Standard Webhooks' headers.

https://www.standardwebhooks.com: HMAC-SHA256 over id, time and body. The id stays the same when a
call is tried again, the time is that of each try; receivers refuse what is older than minutes.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import Final

_prefix: Final = "whsec_"


def signing_key(secret: str) -> bytes:
    """Give the key that a secret stands for: base64 behind ``whsec_``, else its own bytes.

    Raises:
        ValueError: what follows ``whsec_`` is no base64.

    """
    if not secret.startswith(_prefix):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(_prefix), validate=True)
    except binascii.Error:
        raise ValueError(f"what follows {_prefix} is not base64") from None


def signed_headers(key: bytes, message_id: str, sent_at: int, body: bytes) -> dict[str, str]:
    """Give the headers of a call; `sent_at` is in seconds since 1970."""
    signed = f"{message_id}.{sent_at}.".encode() + body
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(sent_at),
        "webhook-signature": f"v1,{base64.b64encode(digest).decode()}",
    }
