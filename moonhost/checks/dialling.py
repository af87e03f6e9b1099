"""Dials an edge as its agent does, as far as that goes without taking the agent's place there."""

from __future__ import annotations

import ssl
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from typing import Final
from urllib.parse import urlsplit

import httpx
import trio

from moonhost.checks.judging_agent import DialFacts, TlsFault
from moonhost.checks.machine import addresses_of
from moonlight.errors import printable
from revdial.admission import agent_header

connect_timeout_s: Final = 4.0
answer_timeout_s: Final = 4.0
_path: Final = "/v1/doctor"
"""One that no edge has. Tokens are looked at first, so its answer tells whether ours is valid."""


async def dial(url: str, token: str, tls: ssl.SSLContext | None) -> DialFacts:
    """Connect, verify the certificate, and show the token; `tls` is None for ``ws://``.

    Nothing is upgraded and no hello said, so an agent that is connected stays so.
    """
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port or (80 if tls is None else 443)
    facts = DialFacts(host, port, (), encrypted=tls is not None)
    with trio.move_on_after(connect_timeout_s):
        facts = replace(facts, addresses=await addresses_of(host))
    if not facts.addresses:
        return facts
    facts = await _handshake(facts, tls)
    if facts.connect_fault is not None or facts.tls_fault is not None:
        return facts
    where = f"{'http' if tls is None else 'https'}://{parts.netloc}{parts.path.rstrip('/')}{_path}"
    return await _show_token(facts, where, token, tls)


async def _handshake(facts: DialFacts, tls: ssl.SSLContext | None) -> DialFacts:
    try:
        with trio.fail_after(connect_timeout_s):
            stream: trio.abc.Stream = await trio.open_tcp_stream(facts.host, facts.port)
    except trio.TooSlowError:
        return replace(facts, connect_fault=f"no answer in {connect_timeout_s:g} s")
    except OSError as error:
        return replace(facts, connect_fault=printable(cause_of(error)))
    try:
        with trio.fail_after(connect_timeout_s):
            if tls is not None:
                stream = trio.SSLStream(stream, tls, server_hostname=facts.host)
                await stream.do_handshake()
    except trio.TooSlowError:
        fault = TlsFault(f"no answer in {connect_timeout_s:g} s", None)
        return replace(facts, tls_fault=fault)
    except trio.BrokenResourceError as error:
        return replace(facts, tls_fault=_tls_fault(error))
    finally:
        await trio.aclose_forcefully(stream)
    return facts


async def _show_token(
    facts: DialFacts, where: str, token: str, tls: ssl.SSLContext | None
) -> DialFacts:
    try:
        async with (
            httpx.AsyncClient(
                # Never used without TLS; by itself httpx would load all root certificates.
                verify=tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT),
                timeout=answer_timeout_s,
                trust_env=False,
            ) as client,
            client.stream("GET", where, headers={"Authorization": f"Bearer {token}"}) as answer,
        ):
            now = datetime.now(UTC)
            return replace(
                facts,
                status=answer.status_code,
                token_of=printable(answer.headers.get(agent_header, "")),
                skew=_skew(answer.headers.get("date"), now),
            )
    except httpx.HTTPError as error:
        # Its text could quote what was sent.
        return replace(facts, http_fault=type(error).__name__)


def _skew(date: str | None, now: datetime) -> timedelta | None:
    try:
        return now - parsedate_to_datetime(date or "").astimezone(UTC)
    except ValueError:
        return None


def _tls_fault(error: BaseException) -> TlsFault:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return TlsFault(printable(cause.verify_message), cause.verify_code)
        if isinstance(cause, ssl.SSLError):
            return TlsFault(printable(cause.reason or "the handshake failed"), None)
        cause = cause.__cause__
    return TlsFault("the connection ended during the handshake", None)


def cause_of(error: OSError) -> str:
    """Say why no address could be connected; trio puts what each one said into a group."""
    cause = error.__cause__
    while isinstance(cause, BaseExceptionGroup):
        cause = cause.exceptions[0]
    told = cause if isinstance(cause, OSError) else error
    return told.strerror or str(told)
