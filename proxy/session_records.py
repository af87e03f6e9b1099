"""Sessions as the store keeps them, so that a restarted edge finds them and their streams go on."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated

import msgspec

from backends.records import SessionRecord
from backends.slots import Reservation
from moonlight.flows import Flow
from moonlight.identity import ClientId
from moonlight.launch import RtspUrl
from proxy.sessions import FlowTerms, Session, SessionId, SessionState, StreamKey, VideoEncryption


class _Details(msgspec.Struct, frozen=True):
    """What of a session is the edge's own business; the store encrypts it."""

    client_address: str
    app_id: int
    mode: str
    rikey: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    rikeyid: int
    corever: int
    label: str
    rtsp_port: int
    host_rtsp: str
    flows: dict[str, tuple[int, str | int, str | int | None]]
    control_client: tuple[str, int] | None = None
    kbps: int | None = None
    codec: str | None = None
    audio_channels: int | None = None
    own_udp_ports: dict[str, int] = {}
    video: VideoEncryption = VideoEncryption()
    rtsp_encrypted: bool = False
    rtsp_sequence: int = 0
    host_rtsp_sequence: int = 0

    def __repr__(self) -> str:
        return "_Details(…)"


def to_record(session: Session) -> SessionRecord:
    """Write a session as it is now, later than any record of it before."""
    session.updated_at = max(datetime.now(UTC), session.updated_at + timedelta(microseconds=1))
    details = _Details(
        client_address=session.client_address,
        app_id=session.app_id,
        mode=session.mode,
        rikey=session.key.rikey,
        rikeyid=session.key.rikeyid,
        corever=session.corever,
        label=session.label,
        rtsp_port=session.rtsp_port,
        host_rtsp=str(session.host_rtsp),
        flows={
            flow: (terms.host_port, terms.edge_secret, terms.host_secret)
            for flow, terms in session.flows.items()
        },
        control_client=session.control_client,
        kbps=session.kbps,
        codec=session.codec,
        audio_channels=session.audio_channels,
        own_udp_ports={str(flow): port for flow, port in session.own_udp_ports.items()},
        video=session.video,
        rtsp_encrypted=session.rtsp_encrypted,
        rtsp_sequence=session.rtsp_sequence,
        host_rtsp_sequence=session.host_rtsp_sequence,
    )
    return SessionRecord(
        id=session.id,
        client_id=session.client,
        backend_id=session.backend,
        app_title=session.app_title,
        state=session.state,
        started_at=session.started_at,
        updated_at=session.updated_at,
        details=msgspec.json.encode(details),
    )


def from_record(record: SessionRecord, reservation: Reservation, *, now: float) -> Session:
    """Read a session that this or an older edge wrote.

    Raises:
        ValueError: the record was written by an edge that this one does not understand.

    """
    details = msgspec.json.decode(record.details, type=_Details)
    return Session(
        id=SessionId(record.id),
        client=ClientId(record.client_id),
        client_address=details.client_address,
        backend=record.backend_id,
        app_id=details.app_id,
        app_title=record.app_title,
        mode=details.mode,
        key=StreamKey(details.rikey, details.rikeyid),
        corever=details.corever,
        label=details.label,
        rtsp_port=details.rtsp_port,
        host_rtsp=RtspUrl.parse(details.host_rtsp),
        state=SessionState(record.state),
        since=now,
        reservation=reservation,
        flows={Flow(name): FlowTerms(*terms) for name, terms in details.flows.items()},
        control_client=details.control_client,
        kbps=details.kbps,
        codec=details.codec,
        audio_channels=details.audio_channels,
        own_udp_ports={Flow(name): port for name, port in details.own_udp_ports.items()},
        video=details.video,
        rtsp_encrypted=details.rtsp_encrypted,
        rtsp_sequence=details.rtsp_sequence,
        host_rtsp_sequence=details.host_rtsp_sequence,
        started_at=record.started_at,
        updated_at=record.updated_at,
    )
