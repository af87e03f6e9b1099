"""The admin port as the command line reaches it: plain, over TLS, and where that is unwise."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
import trio
import trustme
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from moonhost.admin_client import AdminClient
from moonhost.errors import AdminError
from proxy import state_dir
from proxy.admin import http_server
from proxy.admin import port as admin_port
from proxy.certificates import Certificates
from proxy.config import Admin, ProxyConfig
from proxy.errors import StartFailed

HOSTNAME = "play.example.org"


@dataclass
class Files:
    certificate: Path
    private_key: Path
    ca: Path


@pytest.fixture
def files(tmp_path: Path) -> Files:
    authority = trustme.CA()
    issued = authority.issue_cert(HOSTNAME)
    found = Files(tmp_path / "c.pem", tmp_path / "k.pem", tmp_path / "ca.pem")
    issued.cert_chain_pems[0].write_to_path(found.certificate)
    issued.private_key_pem.write_to_path(found.private_key)
    authority.cert_pem.write_to_path(found.ca)
    state_dir.local_token(tmp_path, None)
    return found


async def token(request: Request) -> Response:
    return JSONResponse({"access_token": "jwt", "expires_in": 300})


async def scheme(request: Request) -> Response:
    version = request.scope["http_version"]
    return JSONResponse({"scheme": request.url.scheme, "version": version})


APPLICATION = Starlette(
    routes=[Route("/api/v1/token", token, methods=["POST"]), Route("/scheme", scheme)]
)


@asynccontextmanager
async def served(admin: Admin, certificates: Certificates | None = None) -> AsyncIterator[int]:
    """Serve at a free port while this lasts; gives the port."""
    config = ProxyConfig(hostname=HOSTNAME, admin=admin.model_copy(update={"port": 0}))
    async with trio.open_nursery() as nursery:
        yield await nursery.start(
            admin_port.serve,
            APPLICATION,
            config,
            certificates or Certificates(),
            admin_port.admin_doors(),
        )
        nursery.cancel_scope.cancel()


def edge_config(tmp_path: Path, port: int, **admin: Any) -> ProxyConfig:
    hostname = admin.pop("hostname", HOSTNAME)
    return ProxyConfig(hostname=hostname, state_dir=tmp_path, admin=Admin(port=port, **admin))


async def test_the_commands_speak_tls_where_a_certificate_is_configured(
    tmp_path: Path, files: Files
) -> None:
    tls = {"certificate": files.certificate, "private_key": files.private_key}
    async with served(Admin(**tls)) as port:
        config = edge_config(tmp_path, port, ca_file=files.ca, **tls)
        async with AdminClient.of(config) as edge:
            assert await edge.get("/scheme") == {"scheme": "https", "version": "1.1"}
        async with AdminClient.of(edge_config(tmp_path, port)) as edge:
            with pytest.raises(AdminError, match="no edge answers"):
                await edge.get("/scheme")


async def test_a_certificate_of_nobody_known_is_refused_with_what_to_do(
    tmp_path: Path, files: Files
) -> None:
    tls = {"certificate": files.certificate, "private_key": files.private_key}
    async with served(Admin(**tls)) as port:
        for more in ({}, {"hostname": "other.example.org", "ca_file": files.ca}):
            async with AdminClient.of(edge_config(tmp_path, port, **tls, **more)) as edge:
                with pytest.raises(AdminError, match=r"admin\.ca_file"):
                    await edge.get("/scheme")
    with pytest.raises(AdminError, match=r"nowhere\.pem"):
        AdminClient.of(edge_config(tmp_path, port, ca_file=tmp_path / "nowhere.pem", **tls))


async def test_files_that_are_no_certificate_are_named(tmp_path: Path) -> None:
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("rubbish")
    admin = Admin(certificate=tmp_path / "c.pem", private_key=tmp_path / "k.pem")
    with pytest.raises(StartFailed, match=r"admin\.certificate .*c\.pem") as caught:
        await admin_port.serve(
            APPLICATION,
            ProxyConfig(hostname=HOSTNAME, admin=admin),
            Certificates(),
            admin_port.admin_doors(),
        )
    assert caught.value.reason == "admin_certificate"


async def test_only_a_port_that_strangers_reach_without_tls_is_warned_of(files: Files) -> None:
    tls = {"certificate": files.certificate, "private_key": files.private_key}
    warned = []
    for admin in (Admin(), Admin(address="::1"), Admin(address="0.0.0.0", **tls)):
        with structlog.testing.capture_logs() as events:
            async with served(admin):
                warned += events
    assert warned == []
    with structlog.testing.capture_logs() as events:
        async with served(Admin(address="0.0.0.0")):
            pass
    (event,) = events
    assert (event["event"], event["log_level"]) == ("admin_without_tls", "warning")
    assert "admin.certificate" in event["why"]


async def test_a_renewed_certificate_is_shown_to_who_comes_next(
    tmp_path: Path, files: Files
) -> None:
    certificates = Certificates()
    tls = {"certificate": files.certificate, "private_key": files.private_key}
    async with served(Admin(**tls), certificates) as port:
        config = edge_config(tmp_path, port, ca_file=files.ca, **tls)
        assert set(certificates.valid_until) == {"admin"}
        renewed = trustme.CA()
        issued = renewed.issue_cert(HOSTNAME)
        issued.cert_chain_pems[0].write_to_path(files.certificate)
        issued.private_key_pem.write_to_path(files.private_key)
        async with AdminClient.of(config) as edge:
            assert await edge.get("/scheme")
        certificates.prepare(config)()
        async with AdminClient.of(config) as edge:
            with pytest.raises(AdminError, match="does not prove"):
                await edge.get("/scheme")
        renewed.cert_pem.write_to_path(files.ca)
        async with AdminClient.of(config) as edge:
            assert await edge.get("/scheme") == {"scheme": "https", "version": "1.1"}


async def test_a_port_that_is_taken_is_told() -> None:
    async with served(Admin()) as port:
        with pytest.raises(StartFailed, match="set another port"):
            await admin_port.serve(
                APPLICATION,
                ProxyConfig(hostname=HOSTNAME, admin=Admin(port=port)),
                Certificates(),
                admin_port.admin_doors(),
            )


@pytest.mark.parametrize("sent", [b"", b"GET /scheme HTTP/1.1\r\nHost: x\r\n\r\n", b"\x16\x03\x01"])
async def test_who_does_not_speak_tls_is_let_go_of(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: Files, sent: bytes
) -> None:
    monkeypatch.setattr(http_server, "handshake_timeout_s", 0.2)
    tls = {"certificate": files.certificate, "private_key": files.private_key}
    async with served(Admin(**tls)) as port:
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            await stream.send_all(sent)
            with trio.fail_after(5), suppress(trio.BrokenResourceError):
                while await stream.receive_some(1_024):
                    pass
        async with AdminClient.of(edge_config(tmp_path, port, ca_file=files.ca, **tls)) as edge:
            assert await edge.get("/scheme")
