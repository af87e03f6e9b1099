"""The dashboard of the whole fleet: where there is room, what is asked, what goes wrong."""

from __future__ import annotations

from typing import Final

from grafana.panels import Dashboard, Panel, Query, Row
from grafana.queries import (
    bits_per_second,
    by_region,
    edge,
    every_instance,
    per_second,
    quantile,
)

_now: Final = Row(
    "Now",
    (
        Panel(
            "Edges that take launches",
            "1 for each edge that takes launches, 0 for one that drains or is without its store.",
            "none",
            (Query(f"moonhost_ready{{{edge}}}", "{{instance}}"),),
            "stat",
            width=4,
            height=4,
        ),
        Panel(
            "Sessions",
            "By state: launched (the handshake is awaited), streaming, paused.",
            "none",
            (Query(f"sum by (state) (moonhost_sessions{{{edge}}})", "{{state}}"),),
            "stat",
            width=6,
            height=4,
        ),
        Panel(
            "Backends",
            "By health. Degraded: its telemetry is stale.",
            "none",
            (Query(f"sum by (health) (moonhost_backend_health{{{edge}}})", "{{health}}"),),
            "stat",
            width=6,
            height=4,
        ),
        Panel(
            "Agents connected",
            "Of those whose backends are known.",
            "none",
            (
                Query(f"sum(moonhost_agent_connected{{{edge}}})", "connected"),
                Query(f"count(moonhost_agent_connected{{{edge}}})", "known"),
            ),
            "stat",
            width=4,
            height=4,
        ),
        Panel(
            "Certificates",
            "Until the first certificate that the edge shows expires.",
            "s",
            (
                Query(
                    f"moonhost_certificate_expiry_timestamp_seconds{{{edge}}} - time()",
                    "{{certificate}}",
                ),
            ),
            "stat",
            width=4,
            height=4,
        ),
        Panel(
            "Regions",
            "Sessions against their limit, the fullest GPU, and how many backends are healthy.",
            "short",
            (
                Query(by_region(f"moonhost_backend_sessions{{{edge}}}"), "Sessions"),
                Query(by_region(f"moonhost_backend_session_limit{{{edge}}}"), "Limit"),
                Query(
                    by_region(
                        f"max by (instance, backend) "
                        f"(moonhost_backend_gpu_memory_used_ratio{{{edge}}})",
                        take="max",
                    ),
                    "Fullest GPU (0-1)",
                ),
                Query(
                    by_region(
                        "max by (instance, backend) "
                        f'(moonhost_backend_health{{{edge},health="healthy"}})'
                    ),
                    "Healthy backends",
                ),
            ),
            "table",
            width=24,
        ),
    ),
)

_load: Final = Row(
    "Load",
    (
        Panel(
            "Sessions by backend",
            "Sessions and reservations.",
            "none",
            (Query(f"moonhost_backend_sessions{{{edge}}}", "{{backend}}"),),
            stacked=True,
        ),
        Panel(
            "GPU memory",
            "Share in use of each backend's fullest GPU. Above 0.9 a backend is passed over while "
            "another region has room.",
            "percentunit",
            (
                Query(
                    f"max by (backend) (moonhost_backend_gpu_memory_used_ratio{{{edge}}})",
                    "{{backend}}",
                ),
            ),
            highest=1,
        ),
        Panel(
            "Sent to clients",
            "All sessions of the edge, also those without series of their own.",
            "bps",
            (Query(bits_per_second("moonhost_media_sent_bytes_total", edge, "flow"), "{{flow}}"),),
            stacked=True,
        ),
    ),
)

_launches: Final = Row(
    "Launches",
    (
        Panel(
            "Launches and resumes",
            "By outcome. Failed: something was amiss here or at hosts; refused: the client cannot "
            "have that; given up: it hung up.",
            "reqps",
            (
                Query(
                    per_second("moonhost_launches_total", edge, "request", "outcome"),
                    "{{request}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Why launches fail",
            "Of those that failed or were refused.",
            "reqps",
            (
                Query(
                    per_second(
                        "moonhost_launches_total",
                        f'{edge},outcome=~"failed|refused"',
                        "reason",
                    ),
                    "{{reason}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "How long launches take",
            "Until the client is answered, of those that start an app. Clients wait 120 s.",
            "s",
            (
                Query(quantile(0.5, "moonhost_launch_seconds", edge), "half"),
                Query(quantile(0.95, "moonhost_launch_seconds", edge), "95 %"),
            ),
        ),
        Panel(
            "Why backends are chosen",
            "Spilled: the nearest region had no room.",
            "reqps",
            (Query(per_second("moonhost_decisions_total", edge, "reason"), "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            "Launches that no backend could take",
            "And backends that failed one, which another then took over (failover).",
            "reqps",
            (
                Query(
                    per_second("moonhost_launches_without_backend_total", edge, "reason"),
                    "{{reason}}",
                ),
                Query(
                    per_second("moonhost_failovers_total", edge, "reason"), "failover: {{reason}}"
                ),
            ),
        ),
        Panel(
            "Pairings and wakes",
            "Pairings that are over, what came of wishes to wake hosts, and of tokens shown to the "
            "admin API.",
            "reqps",
            (
                Query(per_second("moonhost_pairings_total", edge, "outcome"), "{{outcome}}"),
                Query(
                    per_second("moonhost_admin_logins_total", edge, "outcome"), "token: {{outcome}}"
                ),
                Query(per_second("moonhost_wakes_total", edge, "outcome"), "wake: {{outcome}}"),
            ),
        ),
    ),
)

_faults: Final = Row(
    "What goes wrong",
    (
        Panel(
            "Errors",
            "What should not happen, by kind; each is in the log.",
            "reqps",
            (Query(per_second("moonhost_errors_total", edge, "kind"), "{{kind}}"),),
        ),
        Panel(
            "Connections to backends that failed",
            "By backend and kind.",
            "reqps",
            (
                Query(
                    per_second("moonhost_backend_connection_errors_total", edge, "backend", "kind"),
                    "{{backend}} {{kind}}",
                ),
            ),
        ),
        Panel(
            "Datagrams dropped",
            "By the edge, by reason: ``late_…`` came too late through a tunnel, "
            "``client_…`` the client's side did not take.",
            "pps",
            (Query(per_second("moonhost_datagrams_dropped_total", edge, "reason"), "{{reason}}"),),
            stacked=True,
        ),
        Panel(
            "Dropped by agents",
            "By reason, as their heartbeats tell.",
            "pps",
            (
                Query(
                    f"{per_second('moonhost_agent_losses_total', edge, 'reason')} or vector(0)",
                    "{{reason}}",
                ),
            ),
            stacked=True,
        ),
        Panel(
            "Refused at the ports",
            "What came and was not taken, by port and reason.",
            "reqps",
            (
                Query(
                    per_second("moonhost_refused_input_total", edge, "port", "reason"),
                    "{{port}} {{reason}}",
                ),
                Query(
                    per_second("moonhost_tunnel_refusals_total", edge, "reason"),
                    "agents {{reason}}",
                ),
            ),
        ),
        Panel(
            "RTSP",
            "Messages that were a session's, by what came of them.",
            "reqps",
            (
                Query(
                    per_second("moonhost_rtsp_messages_total", edge, "method", "outcome"),
                    "{{method}} {{outcome}}",
                ),
            ),
        ),
        Panel(
            "Tunnels",
            "Those that ended, what they lost at the edge, and flows that ended by themselves.",
            "reqps",
            (
                Query(per_second("moonhost_tunnel_losses_total", edge, "reason"), "{{reason}}"),
                Query(
                    per_second("moonhost_flows_ended_total", edge, "flow", "reason"),
                    "{{flow}} ended: {{reason}}",
                ),
            ),
        ),
        Panel(
            "Changes of backends",
            "By the state that they entered.",
            "reqps",
            (
                Query(
                    per_second("moonhost_backend_transitions_total", edge, "reason"), "{{reason}}"
                ),
            ),
        ),
    ),
)

_edge_itself: Final = Row(
    "The edge itself",
    (
        Panel(
            "Event-loop lag",
            "How late the loop runs what is due. Every stream waits for as long.",
            "s",
            (
                Query(quantile(0.5, "moonhost_event_loop_lag_seconds", edge), "half"),
                Query(quantile(0.99, "moonhost_event_loop_lag_seconds", edge), "99 %"),
            ),
        ),
        Panel(
            "Store",
            "How long its operations take (95 %), and those that failed.",
            "s",
            (
                Query(quantile(0.95, "moonhost_store_operation_seconds", edge, "kind"), "{{kind}}"),
                Query(per_second("moonhost_store_failures_total", edge, "kind"), "{{kind}} failed"),
            ),
        ),
        Panel(
            "Connections of clients",
            "Over TCP: HTTP, HTTPS and RTSP.",
            "none",
            (Query(f"moonhost_client_connections{{{edge}}}", "{{instance}}"),),
        ),
        Panel(
            "Tunnels' round trips",
            "Between the edge and each agent.",
            "s",
            (Query(f"moonhost_agent_tunnel_rtt_seconds{{{edge}}}", "{{agent}}"),),
        ),
        Panel(
            "Sessions without series",
            "Sessions that the other dashboards do not show, since there are too many.",
            "none",
            (Query(f"moonhost_sessions_without_metrics{{{edge}}}", "{{instance}}"),),
        ),
        Panel(
            "What runs",
            "Version of moonhost and of Python.",
            "none",
            (Query(f"moonhost_build_info{{{edge}}}", "Edges"),),
            "table",
        ),
    ),
)

FLEET: Final = Dashboard(
    "moonhost-fleet",
    "moonhost: fleet",
    (_now, _load, _launches, _faults, _edge_itself),
    (every_instance,),
)
