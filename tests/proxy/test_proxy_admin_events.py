"""Events over HTTP: the list, and the stream through a real server."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import h11
import httpx
import pytest
import trio
import trio.testing
from served_admin import served
from starlette.requests import Request

from proxy.admin import event_stream
from proxy.admin.api import AdminApi
from proxy.admin.event_stream import EventsApi
from proxy.admin.gate import Caller
from proxy.admin.scopes import Scope
from proxy.events import EventKind, Events
from tests.waiting import until

STREAM = "/api/v1/events/stream"
patience_s = 10.0


class OpenGate:
    """Admits everybody, until a time."""

    def __init__(self, expires_at: datetime | None = None) -> None:
        self.expires_at = expires_at
        self.revoked = False

    async def admit(self, request: Request, scopes: frozenset[Scope]) -> Caller:
        return Caller("anna", frozenset({Scope.READ}), self.expires_at)

    async def stands(self, caller: Caller) -> bool:
        return not self.revoked


@dataclass
class Told:
    """One server-sent event, or a comment."""

    id: int | None = None
    event: str | None = None
    data: dict[str, Any] = field(default_factory=dict)
    comment: str | None = None


class Reader:
    """Reads a stream of events as they come; httpx would hold what it has not given."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self._http = h11.Connection(h11.CLIENT)
        self._text = ""

    async def ask(self, path: str, headers: dict[str, str]) -> h11.Response:
        sent = [("Host", "edge"), *headers.items()]
        request = h11.Request(method="GET", target=path, headers=sent)
        await self._stream.send_all(self._http.send(request) + self._http.send(h11.EndOfMessage()))
        response = await self._next()
        assert isinstance(response, h11.Response)
        return response

    async def _next(self) -> Any:
        with trio.fail_after(patience_s):
            while (event := self._http.next_event()) is h11.NEED_DATA:
                self._http.receive_data(await self._stream.receive_some())
        return event

    async def read(self) -> Told:
        """Read up to the next empty line; EOFError at the end."""
        while "\n\n" not in self._text:
            event = await self._next()
            if isinstance(event, h11.EndOfMessage):
                raise EOFError
            self._text += bytes(event.data).decode()
        block, self._text = self._text.split("\n\n", 1)
        told = Told()
        for line in block.split("\n"):
            name, _, value = line.partition(": ")
            if name == "id":
                told.id = int(value)
            elif name == "event":
                told.event = value
            elif name == "data":
                told.data = json.loads(value)
            else:
                assert name == ""
                told.comment = value
        return told

    async def read_event(self) -> Told:
        """Read up to the end of the next event, whatever comments are before it."""
        while (told := await self.read()).event is None:
            pass
        return told


@dataclass
class Server:
    events: Events
    api: EventsApi
    url: str
    client: httpx.AsyncClient

    @asynccontextmanager
    async def reading(self, path: str = STREAM, **headers: str) -> AsyncIterator[Reader]:
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        port = int(self.url.rpartition(":")[2])
        async with await trio.open_tcp_stream("127.0.0.1", port) as stream:
            reader = Reader(stream)
            response = await reader.ask(path, sent)
            assert response.status_code == 200
            kinds = [value for name, value in response.headers if name == b"content-type"]
            assert kinds == [b"text/event-stream; charset=utf-8"]
            assert (await reader.read()).comment == "events follow"
            yield reader

    def happen(self, subject: str) -> None:
        self.events.keep(EventKind.DRAIN_BEGAN, subject)


@asynccontextmanager
async def serving(
    gate: OpenGate | None = None,
    max_open: int = 2,
    max_kept: int = 100,
    patience_s: float = 10.0,
) -> AsyncIterator[Server]:
    events = Events(max_kept, first_id=1)
    gate = gate or OpenGate()
    api = EventsApi(events, gate.stands, max_open)
    application = AdminApi(gate, api.endpoints()).application()
    async with served(application, patience_s) as url, httpx.AsyncClient(trust_env=False) as client:
        yield Server(events, api, url, client)


async def test_events_come_as_they_happen() -> None:
    async with serving() as server:
        server.happen("before")
        async with server.reading() as reader:
            for number, subject in enumerate(("a/b", "ü\n"), 2):
                server.happen(subject)
                told = await reader.read()
                assert (told.id, told.event) == (number, "drain_began")
                assert told.data["subject"] == subject
                assert told.data["id"] == number
                datetime.fromisoformat(told.data["at"])


async def test_nothing_is_told_to_a_reader_whose_token_was_revoked() -> None:
    gate = OpenGate()
    async with serving(gate) as server, server.reading() as reader:
        # It waits for the next one now.
        await trio.testing.wait_all_tasks_blocked()
        gate.revoked = True
        server.happen("a/b")
        with pytest.raises(EOFError):
            await reader.read()


async def test_a_reader_that_comes_again_gets_what_it_has_not_seen() -> None:
    async with serving() as server:
        for subject in ("a", "b", "c"):
            server.happen(subject)
        async with server.reading(Last_Event_ID="1") as reader:
            assert [(await reader.read()).data["subject"] for _ in range(2)] == ["b", "c"]
        listed = (await server.client.get(server.url + "/api/v1/events")).json()["items"]
        assert [event["subject"] for event in listed] == ["c", "b", "a"]
        path = f"{STREAM}?after={listed[-1]['id']}"
        async with server.reading(path) as reader:
            assert (await reader.read()).data["subject"] == "b"


async def test_a_reader_that_missed_some_is_told_how_many() -> None:
    async with serving(max_kept=2) as server:
        for subject in "abcde":
            server.happen(subject)
        async with server.reading(Last_Event_ID="1") as reader:
            missed = await reader.read()
            assert (missed.event, missed.data["count"]) == ("events_missed", "2")
            assert (await reader.read()).data["subject"] == "d"


@pytest.mark.parametrize("said", ["x", "-1", "1.0", "1" * 17, "²"])
async def test_what_is_no_event_id_is_refused(said: str) -> None:
    async with serving() as server:
        headers = {"Last-Event-ID": said.encode()}
        response = await server.client.get(server.url + STREAM, headers=headers)
        assert (response.status_code, response.json()["type"]) == (
            400,
            "urn:moonhost:bad_event_id",
        )


async def test_only_so_many_read_at_once_and_who_leaves_makes_room() -> None:
    async with serving(max_open=1) as server:
        async with server.reading():
            assert server.api.open == 1
            response = await server.client.get(server.url + STREAM)
            assert response.status_code == 503
            assert response.headers["retry-after"] == str(event_stream.retry_after_s)
            assert response.json()["type"] == "urn:moonhost:too_many_streams"
        await until(lambda: server.api.open == 0)
        async with server.reading() as reader:
            server.happen("a")
            assert (await reader.read()).data["subject"] == "a"
        await until(lambda: server.api.open == 0)


async def test_asking_for_the_head_alone_opens_nothing() -> None:
    async with serving() as server:
        response = await server.client.head(server.url + STREAM)
        assert response.status_code == 200
        await until(lambda: server.api.open == 0)


async def test_a_stream_ends_when_the_callers_authorisation_does() -> None:
    gate = OpenGate(datetime.now(UTC) + timedelta(seconds=0.5))
    async with serving(gate) as server, server.reading() as reader:
        server.happen("a")
        assert (await reader.read()).data["subject"] == "a"
        with pytest.raises(EOFError):
            await reader.read_event()
        await until(lambda: server.api.open == 0)


async def test_a_stream_ends_when_the_edge_stops() -> None:
    async with trio.open_nursery() as nursery:
        ready = trio.Event()

        async def run() -> None:
            async with serving() as server, server.reading() as reader:
                ready.set()
                await reader.read()

        nursery.start_soon(run)
        await ready.wait()
        began_at = trio.current_time()
        nursery.cancel_scope.cancel()
    assert trio.current_time() - began_at < patience_s / 2


async def test_a_reader_that_stops_reading_is_given_up() -> None:
    # Else hypercorn would hold up the edge's end for as long as the reader likes.
    async with serving(patience_s=1.0) as server, server.reading():
        with trio.fail_after(patience_s):
            while server.api.open:
                server.happen("x" * 3_000)
                await trio.sleep(0.0005)


async def test_silence_is_broken_by_comments(autojump_clock: trio.testing.MockClock) -> None:
    api = EventsApi(Events(), OpenGate().stands)
    sent: list[tuple[float, bytes]] = []

    async def send(message: Any) -> None:
        sent.append((trio.current_time(), message["body"]))

    began_at = trio.current_time()
    with trio.move_on_after(40):
        await api.send(api._events.last_id, Caller("anna", frozenset()), send)
    assert [(round(at - began_at), body[:1]) for at, body in sent] == [
        (0, b":"),
        (15, b":"),
        (30, b":"),
    ]


async def test_a_caller_whose_time_has_gone_by_gets_no_event() -> None:
    events = Events(first_id=1)
    events.keep(EventKind.DRAIN_BEGAN, "a")
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    reader = Caller("anna", frozenset(), datetime.now(UTC) - timedelta(seconds=1))
    await EventsApi(events, OpenGate().stands).send(0, reader, send)
    assert b"drain_began" not in b"".join(message["body"] for message in sent)
    assert not sent[-1].get("more_body")
