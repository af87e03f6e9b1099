"""The dashboard of one backend: its host, the tunnel to it, and who plays there."""

from __future__ import annotations

from typing import Final

from grafana.panels import Dashboard, Panel, Query, Row, Variable
from grafana.queries import (
    backend,
    bits_per_second,
    edge,
    every_instance,
    lost_share,
    of_its_agent,
    per_second,
)

_host: Final = Row(
    "Host",
    (
        Panel(
            "Health",
            "Which of the three it is; draining means that it takes no new sessions.",
            "none",
            (
                Query(f"moonhost_backend_health{{{backend}}} == 1", "{{health}}"),
                Query(f"moonhost_backend_draining{{{backend}}}", "draining"),
            ),
            "state-timeline",
            width=12,
        ),
        Panel(
            "Sessions",
            "With reservations, against the limit.",
            "none",
            (
                Query(f"moonhost_backend_sessions{{{backend}}}", "sessions"),
                Query(f"moonhost_backend_session_limit{{{backend}}}", "limit"),
            ),
            width=12,
        ),
        Panel(
            "GPU memory",
            "Of each GPU that has memory of its own, and what selection reckons with: new sessions "
            "may still grow.",
            "percentunit",
            (
                Query(f"moonhost_backend_gpu_memory_used_ratio{{{backend}}}", "GPU {{gpu}}"),
                Query(f"moonhost_backend_gpu_memory_reckoned_ratio{{{backend}}}", "reckoned"),
            ),
            highest=1,
        ),
        Panel(
            "GPU memory in bytes",
            "In use, and all there is.",
            "bytes",
            (
                Query(f"moonhost_backend_gpu_memory_used_bytes{{{backend}}}", "GPU {{gpu}} used"),
                Query(f"moonhost_backend_gpu_memory_bytes{{{backend}}}", "GPU {{gpu}}"),
            ),
        ),
        Panel(
            "CPU and memory",
            "Of the machine that its agent runs on.",
            "percentunit",
            (
                Query(of_its_agent(f"moonhost_agent_cpu_ratio{{{edge}}}"), "CPU"),
                Query(
                    of_its_agent(
                        f"moonhost_agent_memory_used_bytes{{{edge}}} "
                        f"/ moonhost_agent_memory_bytes{{{edge}}}"
                    ),
                    "memory",
                ),
            ),
            highest=1,
        ),
        Panel(
            "Network",
            "All that its machine receives and sends.",
            "Bps",
            (
                Query(
                    of_its_agent(f"moonhost_agent_network_receive_bytes_per_second{{{edge}}}"),
                    "received",
                ),
                Query(
                    of_its_agent(f"moonhost_agent_network_send_bytes_per_second{{{edge}}}"),
                    "sent",
                ),
            ),
        ),
        Panel(
            "Connections that failed",
            "From the edge through the tunnel to the host, by kind.",
            "reqps",
            (
                Query(
                    per_second("moonhost_backend_connection_errors_total", backend, "kind"),
                    "{{kind}}",
                ),
            ),
        ),
    ),
)

_tunnel: Final = Row(
    "Tunnel",
    (
        Panel(
            "Agent connected",
            "1 while its tunnel is up.",
            "none",
            (Query(of_its_agent(f"moonhost_agent_connected{{{edge}}}"), "{{agent}}"),),
            "stat",
            width=4,
        ),
        Panel(
            "Round trip",
            "Of a ping through the tunnel.",
            "s",
            (Query(of_its_agent(f"moonhost_agent_tunnel_rtt_seconds{{{edge}}}"), "{{agent}}"),),
            width=10,
        ),
        Panel(
            "Data connections",
            "Open or being opened: three a session, and some that are kept ready.",
            "none",
            (Query(of_its_agent(f"moonhost_agent_tunnel_connections{{{edge}}}"), "{{agent}}"),),
            width=10,
        ),
        Panel(
            "Reconnects",
            "How often the agent came back within the last hour.",
            "none",
            (
                Query(
                    of_its_agent(f"increase(moonhost_agent_reconnects_total{{{edge}}}[1h])"),
                    "{{agent}}",
                ),
            ),
        ),
        Panel(
            "Dials",
            "Data connections used: warm ones were ready, cold ones cost a round trip.",
            "reqps",
            (
                Query(
                    of_its_agent(
                        per_second("moonhost_agent_dials_total", edge, "instance", "agent", "kind")
                    ),
                    "{{kind}}",
                ),
            ),
        ),
        Panel(
            "Dropped by the agent",
            "By reason: ``flow_…`` before a slow tunnel, ``host_…`` towards the host.",
            "pps",
            (
                Query(
                    of_its_agent(
                        per_second(
                            "moonhost_agent_losses_total", edge, "instance", "agent", "reason"
                        )
                    )
                    + " or vector(0)",
                    "{{reason}}",
                ),
            ),
        ),
    ),
)

_its_sessions: Final = Row(
    "Its sessions",
    (
        Panel(
            "Sessions",
            "Mode, codec, audio, and what is sent to each client.",
            "bps",
            (
                Query(
                    "sum by (session, mode, codec, audio) (moonhost_session_info{" + backend + "})",
                    "Session",
                ),
                Query(
                    bits_per_second("moonhost_session_sent_bytes_total", backend, "session"),
                    "Sent (bit/s)",
                ),
            ),
            "table",
            width=12,
        ),
        Panel(
            "Lost before the edge",
            "Share of RTP packets that never came out of the tunnel, of each session.",
            "percentunit",
            (Query(lost_share(backend, "session"), "{{session}}"),),
            width=6,
        ),
        Panel(
            "Round trip of control",
            "Between the client and the host, of each session.",
            "s",
            (
                Query(
                    f"sum by (session) (moonhost_session_rtt_seconds{{{backend}}})", "{{session}}"
                ),
            ),
            width=6,
        ),
    ),
)

BACKEND: Final = Dashboard(
    "moonhost-backend",
    "moonhost: one backend",
    (_host, _tunnel, _its_sessions),
    (
        every_instance,
        Variable("backend", f"label_values(moonhost_backend_info{{{edge}}}, backend)"),
    ),
)
