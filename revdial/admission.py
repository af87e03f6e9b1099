"""Who may open a tunnel: the rules of the agent port, without the port.

A token is looked for before the upgrade, a hello after it. What is refused has a reason to count,
and words (and a status, or a close code) that help an honest agent's operator and nobody else.
"""

from __future__ import annotations

from http import HTTPStatus

from websockets.datastructures import Headers

from revdial.messages import CloseCode, FromAgent, Hello, protocol_version
from revdial.observer import Refusal
from revdial.proxy_protocol import HeaderFault

# Anybody can cause these, so they are counted and only logged at debug level.
noise = frozenset(
    {
        Refusal.TOO_MANY_WAITING,
        Refusal.TLS_FAILED,
        Refusal.HANDSHAKE_TIMEOUT,
        Refusal.NOT_WEBSOCKET,
        Refusal.NO_TOKEN,
        # Said once each, by the listener: a health check that is wrong comes every second.
        *map(Refusal, HeaderFault),
    }
)
agent_header = "Moonhost-Agent"
"""Tells who shows a valid token at a path that there is not whose it is: `moonhost doctor` does."""
answers: dict[Refusal, tuple[HTTPStatus, str]] = {
    Refusal.NO_TOKEN: (HTTPStatus.UNAUTHORIZED, "A bearer token is needed."),
    Refusal.BAD_TOKEN: (HTTPStatus.UNAUTHORIZED, "The token is not valid."),
    Refusal.AUTHENTICATION_UNAVAILABLE: (
        HTTPStatus.SERVICE_UNAVAILABLE,
        "Tokens cannot be checked now.",
    ),
    Refusal.UNKNOWN_PATH: (HTTPStatus.NOT_FOUND, "There is nothing here."),
    # The same answer for both: nobody learns which ids exist.
    Refusal.DATA_ID_UNKNOWN: (HTTPStatus.NOT_FOUND, "Nobody waits for this data connection."),
    Refusal.DATA_ID_FOREIGN: (HTTPStatus.NOT_FOUND, "Nobody waits for this data connection."),
}


class HelloRefused(Exception):
    """The first message is not one to open a tunnel with."""

    def __init__(self, refusal: Refusal, code: CloseCode, text: str) -> None:
        super().__init__(text)
        self.refusal, self.code, self.text = refusal, code, text


def bearer_of(headers: Headers) -> str | None:
    """The token of the one Authorization header, or None."""
    values = headers.get_all("Authorization")
    if len(values) != 1:
        return None
    scheme, _, bearer = values[0].partition(" ")
    return bearer.strip() or None if scheme.lower() == "bearer" else None


def check_hello(message: FromAgent, agent_id: str) -> Hello:
    """The hello, where it is one in our version and of the agent the token is for."""
    if not isinstance(message, Hello):
        raise HelloRefused(
            Refusal.HELLO_MISSING, CloseCode.PROTOCOL_ERROR, "the first message must be a hello"
        )
    if message.version != protocol_version:
        raise HelloRefused(
            Refusal.VERSION_MISMATCH,
            CloseCode.VERSION_MISMATCH,
            f"this edge speaks version {protocol_version}",
        )
    if message.agent_id != agent_id:
        raise HelloRefused(
            Refusal.HELLO_MISMATCH, CloseCode.HELLO_MISMATCH, "the token is for another agent id"
        )
    return message
