"""What the failure model promises, seen by a real client that plays meanwhile."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.deployment import Deployment, HostPlan, deployed

pytestmark = pytest.mark.client

play_s = 8.0
most = 0.6
"""Share of the pictures that must be decoded in spite of a gap of a few seconds."""


async def break_the_tunnel(deployment: Deployment) -> None:
    deployment.edge.fleet.tunnel(HostPlan().backend).close()


async def restart_the_edge(deployment: Deployment) -> None:
    await deployment.restart_edge()


@pytest.mark.parametrize("breakage", [break_the_tunnel, restart_the_edge])
async def test_the_stream_goes_on_and_the_client_never_notices(
    tmp_path: Path, breakage: Callable[[Deployment], Awaitable[None]]
) -> None:
    async with deployed(tmp_path, HostPlan()) as deployment:
        client = await deployment.paired_client()
        picture = trio.Event()
        results: list[Any] = []

        def note(event: dict[str, Any]) -> None:
            if event["event"] == "picture":
                picture.set()

        async def play() -> None:
            action = ("stream", "--app", "Test ball", "--seconds", str(play_s))
            results.append(await client.run(*action, on_event=note))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(play)
            await picture.wait()
            (before,) = await deployment.sessions()
            await breakage(deployment)

        (result,) = results
        assert not result["terminated"]
        assert result["frames_decoded"] >= most * result["frames_expected"]
        (after,) = await deployment.sessions()
        assert after["id"] == before["id"]
