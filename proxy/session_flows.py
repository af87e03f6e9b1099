"""The flows of sessions: begun once their terms are settled, told of what changes, and ended."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import structlog
import trio

from moonlight.flows import Flow
from moonlight.video_encryption import VideoSealer
from proxy.client_flow import ClientFlow, FlowEnd
from proxy.config import Sessions
from proxy.control_proof import ControlTrail
from proxy.fleet import Fleet, host_name
from proxy.leg_encryption import set_counters_aside
from proxy.media import Media
from proxy.session_keeper import SessionKeeper
from proxy.sessions import FlowTerms, Session, SessionId, SessionState, VideoEncryptor
from proxy.translation import ConnectTranslation, PingTranslation, Translation
from proxy.udp_port import Endpoint
from revdial.errors import TunnelError
from revdial.flow import DatagramChannel

_log = structlog.get_logger()


class SessionFlows:
    """Gives `media` the flows that sessions want.

    Args:
        nursery: for what is written to the store meanwhile.
        settings: gives those that are in force.
        fleet: leads to the hosts.
        keeper: the sessions.
        media: the flows that run.

    """

    def __init__(
        self,
        nursery: trio.Nursery,
        settings: Callable[[], Sessions],
        fleet: Fleet,
        keeper: SessionKeeper,
        media: Media,
    ) -> None:
        self._nursery = nursery
        self._settings = settings
        self._fleet = fleet
        self._keeper = keeper
        self._media = media
        self.ends: Counter[tuple[Flow, FlowEnd]] = Counter()
        """Flows that ended by themselves, by kind and why."""

    def start_all(self) -> None:
        """Begin the flows of the sessions that an edge finds in its store when it starts."""
        for session in self._keeper.table:
            for flow, terms in session.flows.items():
                if session.state is not SessionState.PAUSED:
                    self.start(session, flow, terms)

    def start(self, session: Session, kind: Flow, terms: FlowTerms) -> None:
        """Begin a flow."""

        async def open_channel() -> DatagramChannel:
            tunnel = await self._fleet.wait_for_tunnel(session.backend)
            try:
                return await tunnel.open_flow(
                    host_name(session.backend),
                    terms.host_port,
                    origin=session.id,
                    session=session.id,
                    flow=kind.value,
                    client_address=session.client_address,
                )
            except TunnelError as error:
                self._fleet.note_connection_failure(session.backend, error)
                raise

        def note_client(client: Endpoint) -> None:
            if kind is Flow.CONTROL:
                self._nursery.start_soon(
                    self._keeper.note_control_client, session.id, client.stored
                )

        settings = self._settings()
        last_seen_at = None
        if kind is Flow.CONTROL and session.control_client is not None:
            last_seen_at = Endpoint.from_stored(session.control_client)
        own_port = session.own_udp_ports.get(kind)
        self._media.add(
            ClientFlow(
                session=session.id,
                kind=kind,
                secret=terms.edge_secret,
                client_address=session.client_address,
                translation=_translation(terms, alone=own_port is not None),
                open_channel=open_channel,
                silence_timeout_s=settings.client_silence_timeout_s,
                tunnel_grace_s=settings.tunnel_grace_s,
                last_seen_at=last_seen_at,
                on_bound=note_client,
                kbps=session.kbps if kind is Flow.VIDEO else None,
                own_port=own_port,
                sealer=self._sealer(session) if kind is Flow.VIDEO else None,
                trail=ControlTrail(session.key.rikey) if kind is Flow.CONTROL else None,
                names=session.names,
            )
        )

    def note_rate(self, session: Session) -> None:
        """Hear of a session whose client has said what stream it wants."""
        if session.kbps is not None:
            self._media.set_rate(session.id, session.kbps)

    def seal_video(self, session: Session) -> None:
        """Hear of a session whose video the edge has to encrypt from now on."""
        if (sealer := self._sealer(session)) is not None:
            self._media.set_sealer(session.id, sealer)

    def _sealer(self, session: Session) -> VideoSealer | None:
        if session.sealer is None and session.video.by is VideoEncryptor.EDGE:
            first, session.video = set_counters_aside(session.video, time.time_ns())
            session.sealer = VideoSealer(session.key.rikey, first)
            self._nursery.start_soon(self._keeper.note_video, session)
        return session.sealer

    def note_end(self, session: SessionId, kind: Flow, end: FlowEnd) -> None:
        """Hear of a flow that ended by itself; without control its session is paused."""
        known = self._keeper.table.get(session)
        names = {"session": session} if known is None else known.names
        _log.info("flow_ended", **names, flow=str(kind), reason=str(end))
        self.ends[kind, end] += 1
        if kind is Flow.CONTROL:
            self._nursery.start_soon(self._keeper.pause, session, str(end))


def _translation(terms: FlowTerms, *, alone: bool) -> Translation:
    if isinstance(terms.edge_secret, str):
        host_payload = terms.host_secret if isinstance(terms.host_secret, str) else None
        return PingTranslation(terms.edge_secret, host_payload, without_payload=alone)
    host_data = terms.host_secret if isinstance(terms.host_secret, int) else None
    return ConnectTranslation(terms.edge_secret, host_data, without_data=alone)
