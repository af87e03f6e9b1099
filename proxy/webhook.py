"""Calls a webhook: signed, within a deadline, tried again while there is hope."""

from __future__ import annotations

import json
import ssl
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import httpx
import trio

from proxy.errors import EdgeError, StartFailed
from proxy.wake_config import WakeWebhook
from proxy.webhook_signature import signed_headers, signing_key
from settings import ConfigError, read_secret

retry_delays_s: Final = (1.0, 4.0, 16.0)
max_connections: Final = 8
_worth_another_try: Final = frozenset({408, 425, 429})
_server_error: Final = 500


class WebhookFailed(EdgeError):
    """A webhook was not called; its URL and its answer are in no text, since both may be secret."""


@dataclass(frozen=True, slots=True)
class _Failure:
    reason: str
    message: str
    may_pass: bool


class Webhook:
    """A receiver of calls; made by ``async with Webhook.open(config)``."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        url: str,
        key: bytes,
        timeout_s: float,
        delays_s: tuple[float, ...],
    ) -> None:
        self._client = client
        self._url = url
        self._key = key
        self._timeout_s = timeout_s
        self._delays_s = delays_s

    @classmethod
    @asynccontextmanager
    async def open(
        cls, config: WakeWebhook, *, delays_s: tuple[float, ...] = retry_delays_s
    ) -> AsyncIterator[Webhook]:
        """Make ready to call; nothing is sent yet. A call is tried again after each of `delays_s`.

        Raises:
            StartFailed: the secret or the certificates cannot be used.

        """
        try:
            key = signing_key(read_secret(config.secret_file))
        except ConfigError as error:
            raise StartFailed("webhook_secret", str(error)) from None
        except ValueError as error:
            raise StartFailed("webhook_secret", f"{config.secret_file}: {error}") from None
        try:
            tls = ssl.create_default_context(cafile=config.ca_file)
        except OSError as error:
            raise StartFailed(
                "webhook_ca_file",
                f"there are no certificates in {config.ca_file} (wake.webhook.ca_file): "
                f"{error.strerror}",
            ) from error
        async with httpx.AsyncClient(
            verify=tls,
            timeout=config.timeout_s,
            limits=httpx.Limits(max_connections=max_connections, max_keepalive_connections=0),
            follow_redirects=False,
            trust_env=False,
        ) as client:
            yield cls(client, config.url, key, config.timeout_s, delays_s)

    async def call(self, message_id: str, payload: Mapping[str, Any]) -> None:
        """Post `payload` as JSON, and wait until it was taken.

        `message_id` stays the same for all tries, so that the receiver can tell them from news.

        Raises:
            WebhookFailed: every try failed, or one in a way that others will not mend.

        """
        body = json.dumps(payload, separators=(",", ":")).encode()
        for delay_s in (*self._delays_s, None):
            failure = await self._try(message_id, body)
            if failure is None:
                return
            if delay_s is None or not failure.may_pass:
                raise WebhookFailed(failure.reason, failure.message)
            await trio.sleep(delay_s)

    async def _try(self, message_id: str, body: bytes) -> _Failure | None:
        headers = signed_headers(self._key, message_id, int(time.time()), body)
        headers["content-type"] = "application/json"
        status = None
        try:
            # httpx limits each step of a call, and a slow answer has many.
            with trio.move_on_after(self._timeout_s):
                # The answer's body is left unread: its status says all.
                async with self._client.stream(
                    "POST", self._url, content=body, headers=headers
                ) as answer:
                    status = answer.status_code
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            kind = type(error).__name__
            return _Failure("webhook_unreachable", f"the webhook cannot be reached ({kind})", True)
        if status is None:
            return _Failure(
                "webhook_timeout", f"the webhook did not answer in {self._timeout_s:g} s", True
            )
        if httpx.codes.is_success(status):
            return None
        may_pass = status >= _server_error or status in _worth_another_try
        return _Failure("webhook_refused", f"the webhook answered with status {status}", may_pass)
