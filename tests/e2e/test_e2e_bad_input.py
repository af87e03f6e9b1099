"""Bad input at every port of the edge, while somebody plays."""

from __future__ import annotations

import random
import socket
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio
from structlog.testing import capture_logs

from moonlight.ping import build_ping
from proxy.config import ProxyConfig
from tests.e2e.deployment import HostPlan, deployed
from tests.e2e.test_e2e_play import assert_played, play

request_timeout_s = 1.0
settings = f"""
[limits]
request_timeout_s = {request_timeout_s}
keep_alive_timeout_s = {request_timeout_s}
"""

pytestmark = pytest.mark.client

Attack = Callable[[ProxyConfig, random.Random], Awaitable[None]]


async def exchange(port: int, data: bytes, *, tls: bool = False, eof: bool = False) -> bytes:
    """Send bytes and return what comes back until the edge closes; it must close in time."""
    answer = b""
    with trio.fail_after(15):
        stream: trio.abc.Stream = await trio.open_tcp_stream("127.0.0.1", port)
        try:
            if tls:
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                stream = trio.SSLStream(stream, context, https_compatible=True)
            await stream.send_all(data)
            if eof and isinstance(stream, trio.SocketStream):
                await stream.send_eof()
            while chunk := await stream.receive_some(65_536):
                answer += chunk
        except trio.BrokenResourceError:
            pass
        finally:
            await trio.aclose_forcefully(stream)
    return answer


async def http(config: ProxyConfig, noise: random.Random) -> None:
    port = config.listen.http_port
    assert b" 400 " in await exchange(port, noise.randbytes(200) + b"\r\n\r\n")
    assert b" 431 " in await exchange(port, b"GET /" + b"a" * 40_000)
    assert b" 413 " in await exchange(
        port, b"POST /pair HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999\r\n\r\n"
    )
    assert b" 200 " not in await exchange(port, b"GET /serverinfo HT", eof=True)
    assert await exchange(port, b"GET /serverinfo HTTP/1.1\r\nHost:") == b""
    phases = b"GET /pair?uniqueid=1&clientchallenge=00 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert b"none is under way" in await exchange(port, phases)
    salt = b"GET /pair?phrase=getservercert&salt=zz&clientcert=00 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert b"<paired>0</paired>" in await exchange(port, salt)


async def https(config: ProxyConfig, noise: random.Random) -> None:
    port = config.listen.https_port
    await exchange(port, noise.randbytes(500))
    await exchange(port, b"\x16\x03\x01\x40\x00" + noise.randbytes(100))
    assert b" 400 " in await exchange(port, noise.randbytes(200) + b"\r\n\r\n", tls=True)
    launch = b"GET /launch?appid=1 HTTP/1.1\r\nHost: x\r\n\r\n"
    assert b'status_code="401"' in await exchange(port, launch, tls=True)


async def rtsp(config: ProxyConfig, noise: random.Random) -> None:
    port = config.listen.rtsp_port_range[0]
    assert b" 400 " in await exchange(port, noise.randbytes(300) + b"\r\n\r\n")
    assert b" 400 " in await exchange(port, b"OPTIONS " + b"a" * 100_000)
    assert await exchange(port, b"PLAY / RTSP/1.0\r\nCSeq: 1\r\n") == b""
    foreign = b"PLAY / RTSP/1.0\r\nCSeq: 1\r\nHost: 1.2.3.4\r\n\r\n"
    assert b" 454 " in await exchange(port, foreign)
    assert await exchange(port, b"", eof=True) == b""


async def udp(config: ProxyConfig, noise: random.Random) -> None:
    listen = config.listen
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.setblocking(False)
        for port in (listen.video_port, listen.audio_port, listen.control_port):
            for _ in range(200):
                sender.sendto(noise.randbytes(noise.randrange(1_400)), ("127.0.0.1", port))
                await trio.lowlevel.checkpoint()
            sender.sendto(build_ping("A" * 16, 1), ("127.0.0.1", port))
            sender.sendto(b"PING", ("127.0.0.1", port))
            connect = b"\x8f\xff\x00\x00\x82\xff\x00\x01" + noise.randbytes(44)
            sender.sendto(connect, ("127.0.0.1", port))
        # Whoever has proven nothing gets nothing.
        with pytest.raises(BlockingIOError):
            sender.recv(1)


async def agents(config: ProxyConfig, noise: random.Random) -> None:
    port = config.agents.port
    await exchange(port, noise.randbytes(500))
    await exchange(port, noise.randbytes(100) + b"\r\n\r\n", tls=True)
    upgrade = (
        b"GET /v1/control HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
    )
    assert b" 401 " in await exchange(port, upgrade + b"\r\n", tls=True)
    wrong = upgrade + b"Authorization: Bearer " + b"x" * 4_000 + b"\r\n\r\n"
    assert b" 401 " in await exchange(port, wrong, tls=True)


async def test_a_stream_is_not_disturbed_and_nothing_grows(tmp_path: Path) -> None:
    async with deployed(tmp_path, HostPlan(), settings=settings) as deployment:
        client = await deployment.paired_client()
        played: list[Any] = []
        attacks: list[Attack] = [http, https, rtsp, udp, agents]

        with capture_logs() as logs:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(lambda: play(client, "--seconds", "6", into=played))
                for number, attack in enumerate(attacks):
                    nursery.start_soon(attack, deployment.config, random.Random(number))

        assert_played(played[0])
        (session,) = await deployment.sessions()
        assert session["flows"]["video"]["rtp_missing"] == 0
        assert [log for log in logs if log["log_level"] in {"error", "critical"}] == []
        assert not any("exc_info" in log for log in logs)
        assert deployment.edge.open_connections() == 0
        assert sum(deployment.edge.media.dropped.values()) > 500
