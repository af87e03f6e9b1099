"""``python -m grafana``: writes the dashboards beside this file."""

from __future__ import annotations

import json
from pathlib import Path

from grafana.dashboards import DASHBOARDS
from grafana.panels import Dashboard


def text_of(dashboard: Dashboard) -> str:
    """Return a dashboard as its file holds it."""
    return json.dumps(dashboard.to_json(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    for name, dashboard in DASHBOARDS.items():
        (Path(__file__).parent / name).write_text(text_of(dashboard))
