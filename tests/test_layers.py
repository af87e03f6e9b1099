"""Who may know whom: design §2's layering, held by reading every import of every package."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent

ALLOWED = {
    "settings": set[str](),
    "moonlight": set[str](),
    "revdial": set[str](),
    "backends": set[str](),
    "simulator": {"moonlight"},
    "proxy": {"backends", "revdial", "moonlight", "settings"},
    "agent": {"revdial", "moonlight", "settings"},
    "moonhost": {
        "settings",
        "moonlight",
        "revdial",
        "backends",
        "simulator",
        "proxy",
        "agent",
    },
    "bench": {"settings", "moonlight", "revdial", "backends", "proxy", "agent"},
    "grafana": set[str](),
    "fuzz": {"settings", "moonlight", "revdial", "backends", "proxy", "agent"},
}
IO_MODULES = {"socket", "ssl", "select", "selectors", "trio", "asyncio", "anyio", "threading"}
IO_MODULES |= {"subprocess", "http.client", "urllib.request", "httpx", "websockets", "sqlite3"}

# The duck-typed TLS context raises the errors of `ssl` and wraps its memory BIOs: no I/O either.
# Nor is masking bytes.
IO_EXCEPTIONS = {
    Path("moonlight/tls.py"): {"ssl"},
    Path("revdial/frames.py"): {"websockets.speedups", "websockets.utils"},
}

# Decisions outside of moonlight/: values in, values out.
PURE = [
    *Path(ROOT / "moonlight").glob("*.py"),
    *(
        ROOT / name
        for name in (
            "backends/apps.py",
            "backends/candidates.py",
            "backends/catalogue.py",
            "backends/errors.py",
            "backends/geo_records.py",
            "backends/geography.py",
            "backends/health.py",
            "backends/model.py",
            "backends/offerings.py",
            "backends/policies.py",
            "backends/records.py",
            "backends/redis_address.py",
            "backends/redis_layout.py",
            "backends/redis_scripts.py",
            "backends/registry.py",
            "backends/selection.py",
            "backends/slots.py",
            "backends/store.py",
            "backends/telling_apart.py",
            "backends/times.py",
            "backends/tokens.py",
            "revdial/backlog.py",
            "revdial/backoff.py",
            "revdial/errors.py",
            "revdial/frames.py",
            "revdial/framing.py",
            "revdial/lateness.py",
            "revdial/limits.py",
            "revdial/messages.py",
            "revdial/networks.py",
            "revdial/observer.py",
            "revdial/probes.py",
            "revdial/proxy_protocol.py",
            "settings/reload_plan.py",
            "proxy/access.py",
            "proxy/admin/credentials.py",
            "proxy/admin/denials.py",
            "proxy/admin/grants.py",
            "proxy/admin/jwts.py",
            "proxy/admin/key_rotation.py",
            "proxy/admin/logins.py",
            "proxy/admin/origin.py",
            "proxy/admin/scopes.py",
            "proxy/admin/throttle.py",
            "proxy/admin/used_once.py",
            "proxy/config.py",
            "proxy/config_values.py",
            "proxy/control_proof.py",
            "proxy/errors.py",
            "proxy/flow_table.py",
            "proxy/following.py",
            "proxy/leg_encryption.py",
            "proxy/matching.py",
            "proxy/port_pool.py",
            "proxy/roaming.py",
            "proxy/rtp_loss.py",
            "proxy/sealed_rtsp.py",
            "proxy/session_records.py",
            "proxy/sessions.py",
            "proxy/translation.py",
            "proxy/turns.py",
            "proxy/wake_config.py",
            "proxy/wake_plan.py",
            "proxy/webhook_signature.py",
            "agent/addresses.py",
            "agent/budget.py",
            "agent/config.py",
            "agent/gpus.py",
            "agent/host_kinds.py",
            "agent/targets.py",
            "bench/impaired_cases.py",
            "bench/impaired_figures.py",
            "bench/link_model.py",
            "bench/naive_select.py",
            "bench/traffic.py",
            "simulator/light_figures.py",
            "simulator/noise.py",
            "simulator/ownership.py",
            "moonhost/load_report.py",
            "moonhost/log_flood.py",
            "moonhost/words.py",
            "moonhost/checks/certificates.py",
            "moonhost/checks/finding.py",
            "moonhost/checks/judging_agent.py",
            "moonhost/checks/judging_fleet.py",
            "moonhost/checks/judging_machine.py",
            "moonhost/checks/judging_names.py",
            "moonhost/checks/judging_ports.py",
            "proxy/backend_figures.py",
            "proxy/control_rtt.py",
            "proxy/jitter.py",
            "proxy/losses.py",
            "proxy/metric_families.py",
            "proxy/readiness.py",
            "proxy/session_figures.py",
            "proxy/admin/endpoints.py",
            "proxy/admin/openapi.py",
            "proxy/admin/paging.py",
            "proxy/admin/values.py",
            "proxy/tallies.py",
        )
    ),
]


def imports(path: Path, *, at_run_time_only: bool) -> Iterator[tuple[int, str]]:
    """Give line and full name of every import, those inside functions included."""
    skipped: set[ast.AST] = set()
    tree = ast.parse(path.read_text(), str(path))
    for node in ast.walk(tree):
        if at_run_time_only and isinstance(node, ast.If) and is_type_checking(node.test):
            for statement in node.body:
                skipped.update(ast.walk(statement))
        if node in skipped:
            continue
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: imports name their package in full"
            yield node.lineno, node.module or ""


def is_type_checking(test: ast.expr) -> bool:
    return (isinstance(test, ast.Name) and test.id == "TYPE_CHECKING") or (
        isinstance(test, ast.Attribute) and test.attr == "TYPE_CHECKING"
    )


def modules(package: str) -> list[Path]:
    found = sorted((ROOT / package).rglob("*.py"))
    assert found, f"{package} has no modules: has it moved?"
    return found


@pytest.mark.parametrize("package", ALLOWED)
def test_a_package_knows_only_the_layers_below_it(package: str) -> None:
    forbidden = ALLOWED.keys() - ALLOWED[package] - {package}
    found = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in modules(package)
        for line, name in imports(path, at_run_time_only=False)
        if name.partition(".")[0] in forbidden
    ]
    assert found == []


def test_no_package_escapes_this_test() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert packages - {"tests"} == ALLOWED.keys()


def test_the_real_client_is_imported_in_one_place() -> None:
    found = {
        path.relative_to(ROOT)
        for package in ALLOWED
        for path in modules(package)
        for _, name in imports(path, at_run_time_only=False)
        if name.partition(".")[0] == "moonlight_python"
    }
    assert found <= {Path("moonhost/real_client.py")}


@pytest.mark.parametrize("path", PURE, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_decides_does_no_input_or_output(path: Path) -> None:
    excepted = IO_EXCEPTIONS.get(path.relative_to(ROOT), set())
    found = [
        f"line {line}: {name}"
        for line, name in imports(path, at_run_time_only=True)
        if (name in IO_MODULES or name.partition(".")[0] in IO_MODULES) and name not in excepted
    ]
    assert found == []


def test_the_walk_sees_imports_wherever_they_stand(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text(
        "from typing import TYPE_CHECKING\n"
        "if TYPE_CHECKING:\n    import trio\n"
        "else:\n    import socket\n"
        "def f():\n    from proxy.play import Play\n"
        "try:\n    import asyncio.events\nexcept ImportError:\n    pass\n"
    )
    everything = [name for _, name in imports(source, at_run_time_only=False)]
    assert sorted(everything) == ["asyncio.events", "proxy.play", "socket", "trio", "typing"]
    at_run_time = [name for _, name in imports(source, at_run_time_only=True)]
    assert "trio" not in at_run_time
    assert "socket" in at_run_time
