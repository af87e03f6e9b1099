"""The bench of selection runs, compares with the plain scan, and prints what it found."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import maxminddb
import pytest

from backends.geography import Address, Place
from bench import select
from bench.select import Fleet, Timings, write_database


def nowhere(_: Address) -> Place | None:
    return None


def test_a_short_run_prints_json_of_every_size(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(select, "_networks", 16)
    monkeypatch.setattr(select, "write_database", lambda path: write_database(path, 16))
    monkeypatch.setattr(select, "_players", 50)
    select.main(["--json", "--seconds", "0.01", "--runs", "1", "--backends", "10", "20"])
    found = json.loads(capsys.readouterr().out)
    assert [each["backends"] for each in found] == [10, 20]
    for each in found:
        assert each["decisions_per_second"] > 0
        assert 0 < each["p50_ms"] <= each["p99_ms"] <= each["max_ms"]
    assert "plain scan us" in select.table(found)


def test_the_database_is_of_the_kind_that_edges_read(tmp_path: Path) -> None:
    path = tmp_path / "city.mmdb"
    write_database(path, 2)
    with maxminddb.open_database(path) as database:
        record: Any = database.get("64.0.16.1")
        assert set(record["location"]) == {"latitude", "longitude"}
        assert database.get("64.0.32.1") is None


def test_a_baseline_that_disagrees_ends_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_players", 50)
    fleet = Fleet(8, nowhere)
    fleet.compare(5, Timings())
    monkeypatch.setattr(select.naive_select, "select", lambda *_, **__: None)
    with pytest.raises(RuntimeError, match="by the baseline"):
        fleet.compare(5, Timings())


def test_the_fleet_is_kept_about_four_fifths_full(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(select, "_players", 50)
    fleet = Fleet(40, nowhere)
    fleet.run(0.02, Timings())
    sessions = sum(each.sessions for each in fleet._registry.candidates(now=0.0))
    assert 0.7 < sessions / (40 * select.slots_per_host) <= 0.9
