"""The dashboard of one session: what is sent, what is lost, and what is late."""

from __future__ import annotations

from typing import Final

from grafana.panels import Dashboard, Panel, Query, Row, Variable
from grafana.queries import (
    bits_per_second,
    edge,
    every_instance,
    lost_share,
    per_second,
    session,
)

_stream: Final = Row(
    "Stream",
    (
        Panel(
            "What it is",
            "Backend, mode (width x height x frames a second), video codec and audio.",
            "none",
            (Query(f"moonhost_session_info{{{session}}}", "Session"),),
            "table",
            width=24,
            height=4,
        ),
        Panel(
            "Bitrate",
            "Sent to the client, by flow.",
            "bps",
            (
                Query(
                    bits_per_second("moonhost_session_sent_bytes_total", session, "flow"),
                    "{{flow}}",
                ),
            ),
        ),
        Panel(
            "Datagrams",
            "To the client, and from it to the host.",
            "pps",
            (
                Query(
                    per_second("moonhost_session_sent_datagrams_total", session, "flow"),
                    "{{flow}} to client",
                ),
                Query(
                    per_second("moonhost_session_received_datagrams_total", session, "flow"),
                    "{{flow}} to host",
                ),
            ),
        ),
        Panel(
            "RTP packets",
            "That came out of the tunnel, whether or not they could still be sent.",
            "pps",
            (Query(per_second("moonhost_session_rtp_packets_total", session, "flow"), "{{flow}}"),),
        ),
    ),
)

_lost: Final = Row(
    "What is lost",
    (
        Panel(
            "Before the edge",
            "Share of RTP packets that never came out of the tunnel: lost between host and agent, "
            "or dropped by the agent.",
            "percentunit",
            (Query(lost_share(session, "flow"), "{{flow}}"),),
        ),
        Panel(
            "At the edge",
            "Datagrams that the edge dropped, by reason.",
            "pps",
            (
                Query(
                    per_second(
                        "moonhost_session_dropped_datagrams_total", session, "flow", "reason"
                    )
                    + " or vector(0)",
                    "{{flow}} {{reason}}",
                ),
            ),
        ),
        Panel(
            "At the agent",
            "Datagrams that the agent dropped before the tunnel, and whole frames.",
            "pps",
            (
                Query(
                    per_second(
                        "moonhost_session_agent_dropped_datagrams_total", session, "flow", "reason"
                    )
                    + " or vector(0)",
                    "{{flow}} {{reason}}",
                ),
                Query(
                    per_second("moonhost_session_agent_dropped_frames_total", session, "flow"),
                    "{{flow}} frames",
                ),
            ),
        ),
        Panel(
            "Control messages sent again",
            "Reliable ones that passed the edge more than once, by the side that they went to.",
            "pps",
            (
                Query(
                    per_second("moonhost_session_retransmissions_total", session, "side"),
                    "to {{side}}",
                ),
            ),
        ),
    ),
)

_late: Final = Row(
    "What is late",
    (
        Panel(
            "Round trips",
            "Of control, from the edge: to the client, and through the tunnel to the host. Their "
            "sum is what a player feels, beside encoding.",
            "s",
            (Query(f"moonhost_session_rtt_seconds{{{session}}}", "{{side}}"),),
        ),
        Panel(
            "Jitter",
            "Of what comes through the tunnel (RFC 3550), by the agent's clock.",
            "s",
            (Query(f"moonhost_session_jitter_seconds{{{session}}}", "{{flow}}"),),
        ),
        Panel(
            "Backlog",
            "How long the oldest datagram waited at the agent for the tunnel, at most since the "
            "heartbeat before. Above 50 ms video is dropped.",
            "s",
            (Query(f"moonhost_session_backlog_age_seconds{{{session}}}", "{{flow}}"),),
        ),
    ),
)

SESSION: Final = Dashboard(
    "moonhost-session",
    "moonhost: one session",
    (_stream, _lost, _late),
    (
        every_instance,
        Variable("session", f"label_values(moonhost_session_info{{{edge}}}, session)"),
    ),
)
