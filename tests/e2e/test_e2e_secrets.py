"""No secret is in any log at any level, nor where the logs of libraries go."""

from __future__ import annotations

import json
import logging
import urllib.error
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import trio

from backends.vault import load_or_create_key
from moonlight.launch import LaunchRequest
from proxy import state_dir
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.real_client import ClientFailed

pytestmark = pytest.mark.client


async def test_no_secret_reaches_a_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    lines: list[str] = []
    keep_everything(lines)
    rikeys = note_rikeys(monkeypatch)
    try:
        async with deployed(tmp_path, HostPlan()) as deployment:
            client = await deployment.paired_client()
            wrong = await deployment.pair(deployment.client(), "8642086420", told="1357913579")
            assert wrong["pairing"] == {"outcome": "wrong_pin"}
            await client.stream()
            with pytest.raises(ClientFailed):
                await client.stream("--app", "Snow")
            shown = await use_the_admin_api(deployment)
            secrets = await secrets_of(deployment) | rikeys | shown
            await client.run("cancel")
    finally:
        structlog.reset_defaults()

    logged = "\n".join(lines + [record.getMessage() for record in caplog.records])
    assert "session_launched" in logged
    assert "admin_token_wrong" in logged
    assert len(rikeys) >= 2
    for name, secret in sorted((kind, text) for text, kind in secrets.items()):
        assert secret not in logged, f"{name} is in a log"


async def use_the_admin_api(deployment: Deployment) -> dict[str, str]:
    """Show a token in every way, rightly and wrongly; return what was shown."""
    async with deployment.admin() as edge:
        body = {"kind": "api", "name": "anna", "scopes": ["read"]}
        token = (await edge.post("/api/v1/tokens", body))["token"]
    url = f"http://127.0.0.1:{deployment.config.admin.port}/api/v1"
    async with httpx.AsyncClient() as client:
        for shown in (token + "x", token):
            bearer = {"Authorization": f"Bearer {shown}"}
            made = await client.post(f"{url}/token", headers=bearer, json={})
            cookie = await trio.to_thread.run_sync(log_in, f"{url}/login", shown)
        access = made.json()["access_token"]
        for headers in ({"Authorization": f"Bearer {access}x"}, {"Cookie": cookie}):
            await client.delete(f"{url}/clients/x", headers=headers)
    return {
        token: "API token",
        access: "JWT",
        access.rpartition(".")[2]: "signature of a JWT",
        cookie.partition("=")[2]: "cookie",
    }


def log_in(url: str, token: str) -> str:
    """Log in as a browser does, which logs no cookie; httpcore does. Returns the cookie."""
    request = urllib.request.Request(
        url, json.dumps({"token": token}).encode(), {"Content-Type": "application/json"}
    )
    with suppress(urllib.error.HTTPError), urllib.request.urlopen(request, timeout=10) as answer:
        return str(answer.headers["Set-Cookie"]).partition(";")[0]
    return ""


def keep_everything(lines: list[str]) -> None:
    """Log at every level into a list, as the JSON that operators get."""

    class Keeper:
        def msg(self, line: str) -> None:
            lines.append(line)

        debug = info = warning = error = critical = exception = log = msg

    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: Keeper(),
        cache_logger_on_first_use=False,
    )


def note_rikeys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Note every session key that comes to the edge, as it looks in a URL."""
    found: dict[str, str] = {}
    parse = LaunchRequest.parse

    def noting(query: Any, *, resume: bool) -> LaunchRequest:
        found[query.get("rikey")] = "rikey"
        return parse(query, resume=resume)

    monkeypatch.setattr(LaunchRequest, "parse", noting)
    return found


async def secrets_of(deployment: Deployment) -> dict[str, str]:
    """Return every secret of a running deployment, with its kind."""
    found = dict.fromkeys(deployment.pins, "PIN")
    found |= dict.fromkeys(deployment.tokens, "agent token")
    folder = deployment.config.state_dir
    found[(folder / state_dir.admin_token).read_text().strip()] = "admin token"
    found[load_or_create_key(folder / state_dir.store_key).hex()] = "store key"
    for session in deployment.edge.play.keeper.table:
        found[session.label] = "session label"
        for flow, terms in session.flows.items():
            found[str(terms.edge_secret)] = f"{flow} secret of the edge"
            found[str(terms.host_secret)] = f"{flow} secret of the host"
    identity = await deployment.edge.store.get_edge_identity()
    assert identity is not None
    found[identity.key_pem.decode().splitlines()[1]] = "private key of the edge"
    found["PRIVATE KEY"] = "a private key"
    return found
