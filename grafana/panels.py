"""Panels and dashboards as Grafana 10 and later read them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

Json = dict[str, Any]
Kind = Literal["timeseries", "stat", "table", "state-timeline"]

columns: Final = 24
_schema_version: Final = 39
_source: Final = {"type": "prometheus", "uid": "${datasource}"}
_legend: Final = {"displayMode": "table", "placement": "bottom", "calcs": ["mean", "max"]}


@dataclass(frozen=True, slots=True)
class Query:
    """One query in PromQL, and what its series are called."""

    expression: str
    legend: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel; `unit` is Grafana's name of a unit."""

    title: str
    description: str
    unit: str
    queries: tuple[Query, ...]
    kind: Kind = "timeseries"
    width: int = 8
    height: int = 8
    stacked: bool = False
    highest: float | None = None
    """The end of the axis, where there is one."""


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard, of what a label has as values."""

    name: str
    query: str
    many: bool = False


@dataclass(frozen=True, slots=True)
class Row:
    """Panels under one heading."""

    title: str
    panels: tuple[Panel, ...]


@dataclass(frozen=True, slots=True)
class Dashboard:
    """One dashboard, a file of its own."""

    uid: str
    title: str
    rows: tuple[Row, ...]
    variables: tuple[Variable, ...] = ()
    links: tuple[str, ...] = field(default=("moonhost",))
    """Tags of dashboards that it links to."""

    @property
    def panels(self) -> list[Panel]:
        """Every panel."""
        return [panel for row in self.rows for panel in row.panels]

    def to_json(self) -> Json:
        """Return what Grafana imports."""
        return {
            "uid": self.uid,
            "title": self.title,
            "tags": ["moonhost"],
            "schemaVersion": _schema_version,
            "version": 1,
            "editable": False,
            "refresh": "10s",
            "time": {"from": "now-1h", "to": "now"},
            "timezone": "browser",
            "graphTooltip": 1,
            "links": [
                {"type": "dashboards", "tags": [tag], "title": tag, "includeVars": True}
                for tag in self.links
            ],
            "templating": {"list": [_data_source(), *map(_variable, self.variables)]},
            "panels": _placed(self.rows),
        }


def _data_source() -> Json:
    return {"name": "datasource", "label": "Data source", "type": "datasource"} | {
        "query": "prometheus"
    }


def _variable(variable: Variable) -> Json:
    return {
        "name": variable.name,
        "label": variable.name.capitalize(),
        "type": "query",
        "datasource": _source,
        "query": {"query": variable.query, "refId": variable.name},
        "refresh": 2,
        "sort": 1,
        "multi": variable.many,
        "includeAll": variable.many,
        **({"allValue": ".*"} if variable.many else {}),
    }


def _placed(rows: Sequence[Row]) -> list[Json]:
    placed: list[Json] = []
    y = 0
    for row in rows:
        header = {"type": "row", "title": row.title, "collapsed": False, "panels": []}
        placed.append(header | {"id": len(placed) + 1, "gridPos": _place(0, y, columns, 1)})
        y += 1
        x = height = 0
        for panel in row.panels:
            if x + panel.width > columns:
                x, y, height = 0, y + height, 0
            where = _place(x, y, panel.width, panel.height)
            placed.append(_panel(panel) | {"id": len(placed) + 1, "gridPos": where})
            x, height = x + panel.width, max(height, panel.height)
        y += height
    return placed


def _place(x: int, y: int, width: int, height: int) -> Json:
    return {"x": x, "y": y, "w": width, "h": height}


def _panel(panel: Panel) -> Json:
    table = panel.kind == "table"
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": _source,
        "targets": [
            {
                "refId": chr(ord("A") + number),
                "datasource": _source,
                "expr": query.expression,
                "legendFormat": query.legend,
                "instant": table,
                "range": not table,
                "format": "table" if table else "time_series",
            }
            for number, query in enumerate(panel.queries)
        ],
        "fieldConfig": {"defaults": _defaults(panel), "overrides": []},
        "options": _options(panel),
        **({"transformations": _merge(panel)} if table else {}),
    }


def _defaults(panel: Panel) -> Json:
    custom: Json = {}
    if panel.kind == "timeseries":
        custom = {"fillOpacity": 10, "showPoints": "never"}
        if panel.stacked:
            custom |= {"fillOpacity": 30, "stacking": {"mode": "normal", "group": "A"}}
    defaults: Json = {"unit": panel.unit, "min": 0, "custom": custom}
    if panel.highest is not None:
        defaults["max"] = panel.highest
    return defaults


def _options(panel: Panel) -> Json:
    if panel.kind == "timeseries":
        return {"legend": _legend, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "colorMode": "none"}
    return {}


def _merge(panel: Panel) -> list[Json]:
    """Make one row of what all queries say about one value of a label."""
    names = {f"Value #{chr(ord('A') + n)}": query.legend for n, query in enumerate(panel.queries)}
    if len(panel.queries) == 1:
        names = {"Value": panel.queries[0].legend}
    return [
        {"id": "merge", "options": {}},
        {
            "id": "organize",
            "options": {"excludeByName": {"Time": True}, "renameByName": names},
        },
    ]
