"""The admin API's sessions: what runs now, how well, and how to end it."""

from __future__ import annotations

from typing import Annotated

import msgspec
import structlog
import trio

from backends.errors import StoreError
from backends.store import Store
from proxy.admin.endpoints import Asked, Endpoint, NoParameters
from proxy.admin.paging import Page, PageQuery, page, since
from proxy.admin.scopes import OPERATORS, READERS
from proxy.admin.values import ById, Time, milliseconds
from proxy.client_flow import ClientFlow
from proxy.errors import Refused
from proxy.fleet import Fleet
from proxy.media import Media
from proxy.play import Play
from proxy.session_figures import (
    SessionReading,
    agent_drops,
    backlog_age_s,
    drops,
    jitter_s,
    read_session,
)
from proxy.session_keeper import SessionKeeper
from proxy.sessions import SessionId, SessionState, VideoEncryptor

_log = structlog.get_logger()


class FlowItem(msgspec.Struct, frozen=True):
    """One of a session's flows; numbers count from its beginning."""

    client: Annotated[str | None, msgspec.Meta(description="Where it comes from, once it did.")]
    datagrams_to_client: int
    bytes_to_client: int
    datagrams_to_host: int
    rtp_packets: int
    rtp_missing: int
    rtp_late: int
    jitter_ms: float | None
    backlog_age_ms: float
    dropped: dict[str, int]
    dropped_by_agent: dict[str, int]


class RttPair(msgspec.Struct, frozen=True):
    """Round trips of the control flow from the edge: to the client, and to the host."""

    client: float | None = None
    host: float | None = None


class CountPair(msgspec.Struct, frozen=True):
    """Control messages that passed again on their way to that side."""

    client: int = 0
    host: int = 0


class SessionItem(msgspec.Struct, frozen=True):
    """A client that plays an app on a backend."""

    id: str
    client: str
    client_name: str | None
    client_address: str
    backend: str
    region: str | None
    app: str
    mode: str
    codec: str | None
    state: SessionState
    video_encrypted_by: VideoEncryptor
    started_at: Time
    rtt_ms: RttPair
    retransmissions: CountPair
    flows: dict[str, FlowItem]


class SessionsApi:
    """Answers for the sessions of a running edge."""

    def __init__(
        self, store: Store, fleet: Fleet, keeper: SessionKeeper, play: Play, media: Media
    ) -> None:
        self._store = store
        self._fleet = fleet
        self._table = keeper.table
        self._play = play
        self._media = media

    def endpoints(self) -> list[Endpoint]:
        """Return what is answered here."""
        return [
            Endpoint("GET", "/api/v1/sessions", self.list_sessions, READERS),
            Endpoint(
                "DELETE",
                "/api/v1/sessions/{id}",
                self.end_session,
                OPERATORS,
                problems={404: ("no_such_session",), 503: ("client_busy",)},
            ),
        ]

    async def list_sessions(self, asked: Asked[NoParameters, PageQuery, None]) -> Page[SessionItem]:
        """List the sessions, the oldest first.

        Rates are differences between two readings. A client's name is null while the store is down.
        """
        names = await self._names()
        regions = {backend.id: backend.region for backend in self._fleet.backends()}
        part = page(self._table, lambda one: since(one.started_at, one.id), asked.query)
        items = []
        for session in part.items:
            # Media passes in between: reading hundreds at once takes longer than a frame.
            await trio.lowlevel.checkpoint()
            items.append(
                _item(
                    read_session(
                        session,
                        self._media.flows_of(session.id),
                        self._fleet.flow_reports(session.backend),
                    ),
                    names.get(session.client),
                    regions.get(session.backend),
                )
            )
        return Page(items, part.next)

    async def _names(self) -> dict[str, str]:
        try:
            return {client.id: client.name for client in await self._store.list_clients()}
        except StoreError as error:
            _log.warning("sessions_listed_without_names", why=str(error))
            return {}

    async def end_session(self, asked: Asked[ById, NoParameters, None]) -> None:
        """End a session, and the app that runs for it."""
        if not await self._play.end_at_host(SessionId(asked.path.id)):
            raise Refused(404, "no_such_session", "There is no session of that id.")


def _item(reading: SessionReading, client_name: str | None, region: str | None) -> SessionItem:
    session = reading.session
    sides = dict(reading.sides())
    return SessionItem(
        id=session.id,
        client=session.client,
        client_name=client_name,
        client_address=session.client_address,
        backend=session.backend,
        region=region,
        app=session.app_title,
        mode=session.mode,
        codec=session.codec,
        state=session.state,
        video_encrypted_by=session.video.by,
        started_at=session.started_at,
        rtt_ms=RttPair(**{side: milliseconds(trips.rtt_s) for side, trips in sides.items()}),
        retransmissions=CountPair(**{side: trips.retransmissions for side, trips in sides.items()}),
        flows={str(flow.kind): _flow(reading, flow) for flow in reading.flows},
    )


def _flow(reading: SessionReading, flow: ClientFlow) -> FlowItem:
    report = reading.report_of(flow)
    return FlowItem(
        client=None if flow.bound_to is None else str(flow.bound_to),
        datagrams_to_client=flow.datagrams_to_client,
        bytes_to_client=flow.bytes_to_client,
        datagrams_to_host=flow.datagrams_to_host,
        rtp_packets=flow.gaps.received,
        rtp_missing=flow.gaps.missing,
        rtp_late=flow.gaps.late,
        jitter_ms=milliseconds(jitter_s(flow)),
        backlog_age_ms=round(backlog_age_s(report) * 1000, 1),
        dropped=drops(flow),
        dropped_by_agent=agent_drops(report),
    )
