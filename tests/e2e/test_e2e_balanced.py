"""Clients behind a load balancer: TCP comes from the balancer, UDP from the client itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import trio

from simulator import light_http, light_rtsp
from simulator.light_client import StreamWish
from simulator.light_http import Target
from tests.e2e.deployment import HostPlan, deployed
from tests.e2e.light_player import Player
from tests.e2e.test_e2e_ipv6 import has_everything
from tests.waiting import until

BALANCER, CLIENT, PUBLIC = "127.7.0.1", "127.9.0.1", "127.0.0.77"
environ = {"MOONHOST_TEST__LISTEN__PROXY_PROTOCOL_FROM": '["127.7.0.0/16"]'}


@pytest.fixture
def balanced(monkeypatch: pytest.MonkeyPatch) -> dict[int, int]:
    """Let light clients' TCP go through a balancer, which leads these ports to others."""
    detours: dict[int, int] = {}
    connect = light_http.connect

    async def through_balancer(target: Target, port: int, **options: Any) -> trio.SocketStream:
        through = Target(target.address, target.http_port, BALANCER)
        stream = await connect(through, detours.get(port, port), **options)
        await stream.send_all(f"PROXY TCP4 {target.source} {PUBLIC} 56324 {port}\r\n".encode())
        return stream

    for module in (light_http, light_rtsp):
        monkeypatch.setattr(module, "connect", through_balancer)
    return detours


@pytest.mark.parametrize("one_backend_port", [False, True])
async def test_a_client_behind_a_balancer_plays_as_itself(
    tmp_path: Path, balanced: dict[int, int], one_backend_port: bool
) -> None:
    """Also where the balancer leads all RTSP ports to one: what the client dialled is told."""
    plan = HostPlan(picture="noise")
    async with deployed(tmp_path, plan, environ=environ) as deployment:
        shared, *_, last = deployment.config.listen.rtsp_port_range
        if one_backend_port:
            balanced[shared] = last
        player = await Player.at(deployment, CLIENT)
        assert (await player.client._http.serverinfo()).local_ip == PUBLIC
        (app, *_) = await player.client.apps()
        wish = StreamWish(app_id=app.id, mode="320x200x30", bitrate_kbps=500)

        async with player.client.playing(wish) as playing:
            await until(lambda: has_everything(playing), 20)
            (session,) = await deployment.sessions()

        assert session["client_address"] == CLIENT
