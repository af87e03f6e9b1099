"""The alert rules, by promtool: they fire for what they should, and their tests notice a change."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
RULES = ROOT / "grafana" / "alerts.yml"
TESTS = Path(__file__).parent / "alerts.test.yml"
GUIDE = ROOT / "docs" / "monitoring.md"
NAMES = re.findall(r"- alert: (\w+)", RULES.read_text())
timeout_s = 60.0

# The comparison at the end of each rule, and one that is wrong.
BROKEN = {
    "MoonhostEdgeDown": ("== 0", "== 1"),
    "MoonhostEdgeNotReady": ("== 0", "== 1"),
    "MoonhostStoreDown": ("== 0", "== 2"),
    "MoonhostEventLoopLag": ("> 0.05", "> 0.2"),
    "MoonhostCertificateExpires": ("< 14 *", "< 16 *"),
    "MoonhostConfigurationRefused": ("== 0", "== 2"),
    "MoonhostAgentGone": ("unless on (instance, agent)", "and on (instance, agent)"),
    "MoonhostGpuMemoryHigh": ("> 0.9", "> 0.95"),
    "MoonhostPacketLoss": ("> 0.05", "> 0.005"),
    "MoonhostLatencyHigh": ("> 0.1", "> 0.08"),
    "MoonhostBackendUnhealthy": ("* 60 > 10", "* 60 > 13"),
}


def promtool(folder: Path, rules: str) -> subprocess.CompletedProcess[str]:
    """Test rules in a folder of their own."""
    folder.mkdir(exist_ok=True)
    (folder / "alerts.yml").write_text(rules)
    shutil.copy(TESTS, folder)
    return subprocess.run(
        ["promtool", "test", "rules", TESTS.name],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def test_alerts_fire_for_what_they_should_and_for_nothing_else(tmp_path: Path) -> None:
    done = promtool(tmp_path, RULES.read_text())
    assert done.returncode == 0, done.stdout + done.stderr


def test_whatever_rule_is_changed_its_test_notices(tmp_path: Path) -> None:
    rules = RULES.read_text()
    for name, (right, wrong) in BROKEN.items():
        before, found, rule = rules.partition(f"- alert: {name}\n")
        assert right in rule
        rules = before + found + rule.replace(right, wrong, 1)
    done = promtool(tmp_path, rules)
    assert done.returncode != 0
    # All at once, since starting it takes its time; no test is about two alerts.
    assert set(re.findall(r"alertname: ?(\w+)", done.stdout + done.stderr)) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_an_alert_says_what_it_is_and_where_to_read_on(name: str) -> None:
    rule = RULES.read_text().partition(f"- alert: {name}\n")[2].partition("- alert: ")[0]
    assert f"runbook_url: docs/monitoring.md#{name.lower()}\n" in rule
    for needed in ("summary: ", "description: ", "severity: "):
        assert needed in rule
    assert f"\n### {name}\n" in GUIDE.read_text()


def test_every_alert_is_broken_once() -> None:
    assert sorted(NAMES) == sorted(BROKEN)
    assert len(NAMES) == len(set(NAMES))
