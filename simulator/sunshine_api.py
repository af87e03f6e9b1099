"""Sunshine's API, as far as something beside the host needs it: PINs, apps, clients.

A PIN goes to the first pairing that there is; apps are listed without the ids that clients use.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from typing import Any, Final

from moonlight.http import HttpRequest
from simulator.config import HostConfig
from simulator.http_shell import HttpPeer, Reply
from simulator.pairing_desk import PairingDesk

_PIN: Final = re.compile(r"[0-9]{4}")


class SunshineApi:
    """Answers the API's requests to whoever knows the name and the password."""

    def __init__(self, config: HostConfig, desk: PairingDesk) -> None:
        self._apps = config.apps
        self._username = config.api_username
        self._password = config.api_password
        self._desk = desk

    async def handle(self, request: HttpRequest, peer: HttpPeer) -> Reply:
        """Answer one request."""
        if not self._is_authorized(request):
            return _json(401, {"status_code": 401, "status": False, "error": "Unauthorized"})
        match request.method, request.path:
            case "POST", "/api/pin":
                return self._pin(request)
            case "GET", "/api/apps":
                return _json(200, {"apps": [{"name": app.title} for app in self._apps]})
            case "GET", "/api/clients/list":
                clients = [{"name": "", "uuid": client} for client in sorted(self._desk.clients)]
                return _json(200, {"named_certs": clients, "status": True})
        return _bad_request("no such endpoint")

    def _is_authorized(self, request: HttpRequest) -> bool:
        scheme, _, encoded = (request.header("authorization") or "").partition(" ")
        try:
            given = base64.b64decode(encoded, validate=True)
        except binascii.Error:
            return False
        wanted = f"{self._username}:{self._password}".encode()
        return scheme == "Basic" and hmac.compare_digest(given, wanted)

    def _pin(self, request: HttpRequest) -> Reply:
        if request.header("content-type") != "application/json":
            return _bad_request("Content type mismatch")
        try:
            pin = str(json.loads(request.body)["pin"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return _bad_request("no PIN in that")
        return _json(200, {"status": bool(_PIN.fullmatch(pin)) and self._desk.confirm_first(pin)})


def _bad_request(why: str) -> Reply:
    return _json(400, {"status_code": 400, "status": False, "error": why})


def _json(status: int, body: dict[str, Any]) -> Reply:
    return Reply(status, json.dumps(body).encode(), "application/json")
