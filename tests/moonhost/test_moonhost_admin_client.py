"""Asking an edge through its admin API: whole lists, events, and what goes wrong."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import httpx
import pytest

from moonhost import admin_client
from moonhost.admin_client import AdminClient
from moonhost.errors import AdminError
from proxy.admin.api import AdminApi
from proxy.admin.event_stream import EventsApi
from proxy.config import Admin, ProxyConfig
from proxy.events import EventKind, Events
from tests.proxy.served_admin import FakeGate, served


@asynccontextmanager
async def asking(
    events: Events, max_open: int = 1, gate: FakeGate | None = None
) -> AsyncIterator[AdminClient]:
    gate = gate or FakeGate()
    api = AdminApi(gate, EventsApi(events, gate.stands, max_open).endpoints())
    async with (
        served(api.application()) as url,
        AdminClient("127.0.0.1", int(url.rpartition(":")[2]), httpx.Auth()) as client,
    ):
        yield client


def happened(count: int) -> Events:
    events = Events(first_id=1)
    for number in range(count):
        events.keep(EventKind.DRAIN_BEGAN, f"a/{number}")
    return events


async def test_a_list_of_several_pages_is_read_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "items_per_page", 2)
    async with asking(happened(5)) as edge:
        told = await edge.get_all("/api/v1/events")
    assert [event["id"] for event in told] == [5, 4, 3, 2, 1]


async def test_a_list_without_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(admin_client, "items_per_page", 2)
    monkeypatch.setattr(admin_client, "max_items", 4)
    async with asking(happened(5)) as edge:
        with pytest.raises(AdminError, match="over 4 entries"):
            await edge.get_all("/api/v1/events")


async def test_events_are_followed_until_the_edge_ends_it() -> None:
    events, gate, seen = happened(3), FakeGate(), []
    async with asking(events, gate=gate) as edge, aclosing(edge.events(1)) as coming:
        async for event in coming:
            seen.append(event["id"])
            if event["id"] == 3:
                gate.revoked = True
                events.keep(EventKind.DRAIN_BEGAN, "a/4")
    assert seen == [2, 3]


async def test_a_refusal_is_told_in_the_edges_words() -> None:
    async with asking(happened(1), max_open=0) as edge, aclosing(edge.events()) as events:
        with pytest.raises(AdminError, match="Close one, or try again later") as caught:
            await anext(events)
    assert caught.value.status == 503


async def test_where_no_edge_is_one_is_told_what_to_start() -> None:
    async with AdminClient("127.0.0.1", 1, httpx.Auth()) as edge:
        with pytest.raises(AdminError, match="no edge answers at 127"):
            await edge.get_all("/api/v1/events")


def test_a_token_file_that_everybody_can_read_is_named(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("of-the-one-who-operates")
    file.chmod(0o644)
    config = ProxyConfig(hostname="h", admin=Admin(token_file=file))
    with pytest.raises(AdminError, match=r"admin\.token_file .*chmod 600") as caught:
        AdminClient.of(config)
    assert "of-the-one" not in str(caught.value)
