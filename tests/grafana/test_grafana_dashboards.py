"""The dashboards as they are committed: up to date, valid, and of metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from grafana.__main__ import text_of
from grafana.dashboards import DASHBOARDS
from grafana.panels import Panel, columns

ROOT = Path(__file__).parents[2]
GUIDE = " ".join((ROOT / "docs" / "monitoring.md").read_text().split())
UNITS = {"none", "short", "s", "bytes", "Bps", "bps", "pps", "reqps", "percentunit"}
PANELS = [
    pytest.param(panel, id=f"{name}: {panel.title}")
    for name, dashboard in DASHBOARDS.items()
    for panel in dashboard.panels
]


def written(name: str) -> Any:
    return json.loads((ROOT / "grafana" / name).read_text())


@pytest.mark.parametrize("name", DASHBOARDS)
def test_the_file_is_what_the_code_says(name: str) -> None:
    told = f"run `python -m grafana` and commit grafana/{name}"
    assert (ROOT / "grafana" / name).read_text() == text_of(DASHBOARDS[name]), told


def test_no_other_dashboard_lies_beside_them() -> None:
    assert {path.name for path in (ROOT / "grafana").glob("*.json")} == set(DASHBOARDS)


def test_ids_and_titles_are_unique() -> None:
    dashboards = [written(name) for name in DASHBOARDS]
    for what in ("uid", "title"):
        assert len({one[what] for one in dashboards}) == len(dashboards)
    for dashboard in dashboards:
        ids = [panel["id"] for panel in dashboard["panels"]]
        assert len(ids) == len(set(ids))


@pytest.mark.parametrize("name", DASHBOARDS)
def test_every_source_is_the_one_that_is_chosen_at_the_top(name: str) -> None:
    dashboard = written(name)
    (chosen,) = [one for one in dashboard["templating"]["list"] if one["type"] == "datasource"]
    assert (chosen["name"], chosen["query"]) == ("datasource", "prometheus")
    sources = [
        each["datasource"]
        for panel in dashboard["panels"]
        for each in (panel, *panel.get("targets", ()))
        if panel["type"] != "row"
    ]
    sources += [one["datasource"] for one in dashboard["templating"]["list"] if one != chosen]
    assert sources
    assert all(source == {"type": "prometheus", "uid": "${datasource}"} for source in sources)


@pytest.mark.parametrize("name", DASHBOARDS)
def test_panels_lie_side_by_side_and_within_the_page(name: str) -> None:
    taken: set[tuple[int, int]] = set()
    for panel in written(name)["panels"]:
        place = panel["gridPos"]
        assert place["x"] + place["w"] <= columns
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken
        taken |= cells


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_has_a_unit_a_description_and_what_its_queries_choose_by(panel: Panel) -> None:
    assert panel.unit in UNITS
    assert panel.description.endswith(".")
    for query in panel.queries:
        assert 'instance=~"$instance"' in query.expression
        variables = set(re.findall(r"\$(\w+)", query.expression))
        assert variables <= {"__rate_interval", "instance", "backend", "session"}
        # A counter is only of use by how fast it grows.
        for counter in re.findall(r"\w+_total\b", query.expression):
            assert re.search(rf"(rate|increase)\({counter}\b", query.expression)


@pytest.mark.parametrize("panel", PANELS)
def test_the_guide_says_what_a_panel_means(panel: Panel) -> None:
    assert f"**{panel.title}**" in GUIDE
