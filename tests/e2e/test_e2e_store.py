"""The store goes away under a running edge: streams go on, launches say so, all recovers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from simulator.light_errors import ClientFailed
from tests.backends.redis_process import RedisProcess
from tests.e2e.deployment import Deployment, HostPlan, deployed
from tests.e2e.light_player import Player
from tests.waiting import until

more = 50
"""Datagrams that say that a stream goes on."""


@pytest.fixture
def redis_server(tmp_path: Path, own_ports: range) -> Iterator[RedisProcess]:
    folder = tmp_path / "redis"
    folder.mkdir()
    server = RedisProcess(folder, own_ports[0], "--appendonly", "yes", "--appendfsync", "always")
    server.start()
    yield server
    server.kill()


def sent(deployment: Deployment) -> int:
    (session,) = deployment.edge.keeper.table
    return sum(flow.datagrams_to_client for flow in deployment.edge.media.flows_of(session.id))


async def test_a_stream_goes_on_without_the_store_and_launches_come_back_with_it(
    tmp_path: Path, redis_server: RedisProcess
) -> None:
    settings = f'[store]\nkind = "redis"\nredis_url = "{redis_server.url}"\n'
    plan = HostPlan(picture="noise")
    async with deployed(tmp_path, plan, settings=settings) as deployment:
        anna = await Player.at(deployment, "127.11.0.1")
        ben = await Player.at(deployment, "127.11.0.2")
        async with anna.playing():
            redis_server.kill()
            with pytest.raises(ClientFailed, match="cannot reach its database"):
                async with ben.playing():
                    pytest.fail("launched without a store")
            before = sent(deployment)
            await until(lambda: sent(deployment) > before + more)
            redis_server.start()
            async with ben.playing():
                assert len(await deployment.sessions()) == 2
        assert await deployment.edge.store.list_sessions() == ()
