"""The admin API's events: the newest as a list, and all that come as server-sent events."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Annotated, Final

import msgspec
import trio
from msgspec import UNSET, UnsetType
from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.gate import Caller
from proxy.admin.http import refusal
from proxy.admin.paging import PageQuery, page
from proxy.admin.scopes import READERS
from proxy.admin.values import rfc3339
from proxy.errors import Refused
from proxy.events import Event, Events
from proxy.nurseries import flat_nursery

max_streams: Final = 32
retry_after_s: Final = 15
comment_interval_s: Final = 15.0
"""After so long a silence a comment is sent, so that either side notices when the other is gone."""
max_events_per_write: Final = 100
max_id: Final = 2**53 - 1

EventItem = Annotated[
    dict[str, int | str],
    msgspec.Meta(
        title="Event",
        description="What happened, when, and to what; other fields depend on the kind.",
        extra_json_schema={
            "required": ["id", "at", "kind", "subject"],
            "properties": {
                "id": {"type": "integer"},
                "at": {"type": "string", "format": "date-time"},
                "kind": {"type": "string"},
                "subject": {"type": "string"},
            },
        },
    ),
]


class EventPage(msgspec.Struct, frozen=True):
    """A part of the events; the cursor `next` leads to the older ones."""

    items: list[EventItem]
    next: str | None


class StreamQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where a stream begins."""

    after: (
        Annotated[
            int,
            msgspec.Meta(
                ge=0,
                le=max_id,
                description="The last event that is known, where no `Last-Event-ID` says it.",
            ),
        ]
        | UnsetType
    ) = UNSET


class EventsApi:
    """Answers what has happened at an edge, and what does.

    Args:
        events: those of the edge.
        stands: tells whether a caller who was admitted still is.
        max_open: how many streams there may be at once.

    """

    def __init__(
        self,
        events: Events,
        stands: Callable[[Caller], Awaitable[bool]],
        max_open: int = max_streams,
    ) -> None:
        self._events = events
        self._stands = stands
        self._max_open = max_open
        self.open = 0
        """Streams that are being sent."""

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint("GET", "/api/v1/events", self.list_events, READERS),
            Endpoint(
                "GET",
                "/api/v1/events/stream",
                self.stream_events,
                READERS,
                problems={400: ("bad_event_id",), 503: ("too_many_streams",)},
            ),
        ]

    async def list_events(self, asked: Asked[NoParameters, PageQuery, None]) -> EventPage:
        """List what happened lately, the newest first."""
        part = page(self._events.newest(), lambda event: (-event.id, ""), asked.query)
        return EventPage([_item(event) for event in part.items], part.next)

    async def stream_events(self, asked: Asked[NoParameters, StreamQuery, None]) -> EventStream:
        """Send events as they happen, as server-sent events.

        Each has its number as `id`, its kind as `event`, and as `data` the JSON that the list
        shows. Without `Last-Event-ID` or `after` those are sent that are yet to come. A reader who
        missed some is told by an event `events_missed`. The stream ends when the caller's
        authorisation does; come again then with `Last-Event-ID`.
        """
        seen_id = _seen(asked.request.headers)
        if seen_id is None:
            after = asked.query.after
            seen_id = self._events.last_id if after is UNSET else after
        return EventStream(self, seen_id, asked.caller)

    async def send(self, seen_id: int, reader: Caller, send: Send) -> None:
        """Send events until the reader's authorisation ends, or this is cancelled."""
        deadline = trio.current_time() + _seconds_until(reader.expires_at)
        await _write(send, ": events follow\n\n")
        while (left_s := deadline - trio.current_time()) > 0:
            with trio.move_on_after(min(comment_interval_s, left_s)) as silence:
                await self._events.wait_for_newer(seen_id)
            if not await self._stands(reader):
                break
            if silence.cancelled_caught:
                await _write(send, ": still here\n\n")
                continue
            newer = self._events.since(seen_id)[:max_events_per_write]
            seen_id = newer[-1].id
            await _write(send, "".join(map(_written, newer)))
        await send({"type": "http.response.body", "body": b""})

    def take_room(self) -> None:
        """Count one stream more.

        Raises:
            Refused: there are as many as there may be.

        """
        if self.open >= self._max_open:
            raise Refused(
                503,
                "too_many_streams",
                f"{self._max_open} streams are open already. Close one, or try again later.",
                headers={"Retry-After": str(retry_after_s)},
            )
        self.open += 1


class EventStream(Response):
    """Server-sent events, for as long as somebody reads them."""

    media_type = "text/event-stream"

    def __init__(self, api: EventsApi, seen_id: int, reader: Caller) -> None:
        super().__init__()
        del self.headers["content-length"]
        self._api = api
        self._seen_id = seen_id
        self._reader = reader

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send until the reader is gone or may read no longer."""
        try:
            self._api.take_room()
        except Refused as error:
            await refusal(error)(scope, receive, send)
            return
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            if scope["method"] == "HEAD":
                await send({"type": "http.response.body", "body": b""})
                return
            async with flat_nursery() as nursery:
                nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
                await self._api.send(self._seen_id, self._reader, send)
                nursery.cancel_scope.cancel()
        finally:
            self._api.open -= 1


async def _until_gone(receive: Receive, reading: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    reading.cancel()


async def _write(send: Send, text: str) -> None:
    await send({"type": "http.response.body", "body": text.encode(), "more_body": True})


def _seen(headers: Headers) -> int | None:
    text = headers.get("last-event-id", "")
    if not text:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= len(str(max_id))):
        raise Refused(400, "bad_event_id", "Last-Event-ID has to be the id of an event.")
    return int(text)


def _seconds_until(ends_at: datetime | None) -> float:
    return float("inf") if ends_at is None else (ends_at - datetime.now(UTC)).total_seconds()


def _item(event: Event) -> dict[str, int | str]:
    return {
        "id": event.id,
        "at": rfc3339(event.at),
        "kind": str(event.kind),
        "subject": event.subject,
        **event.details,
    }


def _written(event: Event) -> str:
    # JSON has no line breaks of its own, so one line of data is enough.
    data = msgspec.json.encode(_item(event)).decode()
    return f"id: {event.id}\nevent: {event.kind}\ndata: {data}\n\n"
