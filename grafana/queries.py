"""Pieces of PromQL that several panels share."""

from __future__ import annotations

from typing import Final

from grafana.panels import Variable

interval: Final = "$__rate_interval"
edge: Final = 'instance=~"$instance"'
backend: Final = f'{edge},backend=~"$backend"'
session: Final = f'{edge},session=~"$session"'
every_instance: Final = Variable("instance", "label_values(moonhost_build_info, instance)", True)


def per_second(metric: str, where: str, *by: str) -> str:
    """How fast a counter grows, added up by labels."""
    return f"sum by ({', '.join(by)}) (rate({metric}{{{where}}}[{interval}]))"


def bits_per_second(metric: str, where: str, *by: str) -> str:
    """How fast a counter of bytes grows, in bits."""
    return f"8 * {per_second(metric, where, *by)}"


def quantile(share: float, histogram: str, where: str, *by: str) -> str:
    """What `share` of the values of a histogram are at most."""
    labels = ", ".join((*by, "le"))
    rate = f"sum by ({labels}) (rate({histogram}_bucket{{{where}}}[{interval}]))"
    return f"histogram_quantile({share}, {rate})"


def by_region(expression: str, *, take: str = "sum") -> str:
    """Add up what is told by backend, by region."""
    info = f"moonhost_backend_info{{{edge}}}"
    joined = f"({expression}) * on (instance, backend) group_left (region) {info}"
    return f"{take} by (region) ({joined})"


def of_its_agent(expression: str) -> str:
    """Keep of what is told by agent the chosen backend's own."""
    return f"({expression}) and on (instance, agent) moonhost_backend_info{{{backend}}}"


def lost_share(where: str, *by: str) -> str:
    """What share of the RTP packets that hosts sent never came out of the tunnel, by numbers."""
    gaps = per_second("moonhost_session_rtp_gaps_total", where, *by)
    late = per_second("moonhost_session_rtp_late_total", where, *by)
    came = per_second("moonhost_session_rtp_packets_total", where, *by)
    return f"({gaps} - {late}) / (({came} + {gaps} - {late}) > 0)"
