"""The dashboards, by the name of the file that holds each."""

from __future__ import annotations

from typing import Final

from grafana.backend import BACKEND
from grafana.fleet import FLEET
from grafana.session import SESSION

DASHBOARDS: Final = {"fleet.json": FLEET, "backend.json": BACKEND, "session.json": SESSION}
