"""The admin API against its own document: requests that schemathesis makes up, to a live port."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trio
from admin_access import authority_over
from proxy_fakes import BACKEND, FakeStore, FakeTunnel, identity, new_fleet, serving, session
from served_admin import FakeGate, served
from starlette.types import ASGIApp, Receive, Send
from starlette.types import Scope as ASGIScope
from test_proxy_admin import PHONE, Edge, host

from backends.model import agent_of
from moonlight.identity import client_id
from proxy.admin.endpoints import Endpoint

TOKEN = "of-somebody-who-may-do-all"
CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "unsupported_method",
    "allow_header_conformance",
    "ignored_auth",
)
timeout_s = 120.0
# What is there to be found: it would hardly be guessed.
SETTINGS = f"""
[[operations]]
include-path = "/api/v1/drains/{{target}}"
parameters = {{ target = "{agent_of(BACKEND)}" }}

[[operations]]
include-path = "/api/v1/sessions/{{id}}"
parameters = {{ id = "s1" }}

[[operations]]
include-path = "/api/v1/backends/explain"
parameters = {{ client_ip = "192.0.2.1" }}
"""


async def send_nothing(method: str, params: dict[str, Any]) -> dict[str, Any]:
    """Act for an agent that was asked for probes, none of which arrive."""
    await trio.lowlevel.checkpoint()
    return {"host": "play.example.org", "sent": 9}


class Watched:
    """An application, and what it was asked."""

    def __init__(self, application: ASGIApp) -> None:
        self._application = application
        self._asked: set[tuple[str, str]] = set()

    async def __call__(self, scope: ASGIScope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._asked.add((scope["method"], scope["path"]))
        await self._application(scope, receive, send)

    def was_asked(self, endpoint: Endpoint) -> bool:
        path = re.compile(re.sub(r"\{\w+(:path)?\}", ".+", endpoint.path))
        return any(
            method == endpoint.method and path.fullmatch(asked) for method, asked in self._asked
        )


@pytest.fixture
async def edge(nursery: trio.Nursery) -> Edge:
    store = FakeStore()
    for name in ("phone", "tv"):
        der = identity(name).certificate.der
        store.know(der, client_id(der))
    authority = await authority_over(store, lambda _agent: None)
    made = Edge(store, new_fleet(store), nursery, authority, FakeGate(token=TOKEN))
    made.play.keeper.table.add(session("s1", client=PHONE))
    return made


async def test_requests_that_are_made_up_find_nothing_that_the_document_does_not_tell(
    edge: Edge, nursery: trio.Nursery, tmp_path: Path
) -> None:
    command = shutil.which("schemathesis", path=Path(sys.executable).parent)
    assert command is not None
    watched = Watched(edge.application)
    (tmp_path / "schemathesis.toml").write_text(SETTINGS)
    async with (
        serving(edge.fleet, FakeTunnel(nursery, on_stream=host, on_request=send_nothing)),
        served(watched) as url,
    ):
        with trio.fail_after(timeout_s):
            done = await trio.run_process(
                [
                    *(command, "run", f"{url}/api/v1/openapi.json"),
                    *("--header", f"Authorization: Bearer {TOKEN}"),
                    *("--checks", ",".join(CHECKS)),
                    # It does not end.
                    *("--exclude-path", "/api/v1/events/stream"),
                    *("--phases", "examples,coverage,fuzzing"),
                    *("--max-examples", "40", "--seed", "6", "--workers", "1"),
                    *("--request-timeout", "20", "--no-color", "--no-shrink"),
                    "--continue-on-failure",
                ],
                cwd=tmp_path,
                check=False,
                capture_stdout=True,
                stderr=subprocess.STDOUT,
            )
    told = done.stdout.decode(errors="replace")
    assert done.returncode == 0, told
    spared = {"/api/v1/events/stream", "/api/v1/openapi.json"}
    for endpoint in edge.api.endpoints:
        assert endpoint.path in spared or watched.was_asked(endpoint), endpoint.path
