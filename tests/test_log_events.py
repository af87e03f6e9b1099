"""Every event of the log is a constant, and docs/logs.md has all of them and no others."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from moonhost.log_flood import strangers_events
from proxy.events import EventKind

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "logs.md"

# The page's sections, and whose events they list.
SECTIONS = {
    "Every process": ("settings", "moonlight", "moonhost"),
    "The edge": ("proxy", "backends"),
    "The tunnel": ("revdial",),
    "The agent": ("agent",),
    "The simulated host": ("simulator",),
}
LEVELS = {"debug", "info", "warning", "error", "exception"}
# Takes its events from callers, whose calls are read here as if they logged them.
PASSES_ON = ROOT / "proxy" / "events.py"
# What identifies something has one key, wherever it is logged; never these.
OTHER_KEYS = {"subject", "id", "address", "peer", "client_id", "session_id", "detail"}


SECRET = re.compile(
    r"(^|_)(rikey|rikeyid|pin|token|password|secret|payload|private_key|key_pem)(_|$)"
)


@dataclass
class Logged:
    """How an event is logged, at all the places where it is."""

    levels: set[str] = field(default_factory=set)
    keys: set[str] = field(default_factory=set)


def is_logger(node: ast.expr) -> bool:
    match node:
        case ast.Name(id="log" | "_log") | ast.Attribute(attr="_log"):
            return True
        case ast.Call(func=ast.Attribute(attr="get_logger")):
            return True
    return False


def level_of(node: ast.expr) -> set[str]:
    """Give the level of ``_log.info``, or both of ``_log.info if … else _log.debug``."""
    match node:
        case ast.Attribute(value=value, attr=attr) if attr in LEVELS and is_logger(value):
            return {"error" if attr == "exception" else attr}
        case ast.Attribute(value=ast.Attribute(attr="events" | "_events"), attr="note"):
            return {"info"}
        case ast.IfExp(body=body, orelse=orelse):
            return level_of(body) | level_of(orelse)
    return set()


def calls(tree: ast.Module) -> Iterator[tuple[ast.Call, set[str]]]:
    """Give every call that logs, and its levels."""
    chosen = {
        target.id: levels
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign) and (levels := level_of(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else ""
            levels = level_of(node.func) or chosen.get(name, set())
            if levels:
                yield node, levels


def name_of(argument: ast.expr) -> ast.expr:
    """Give the constant that ``EventKind.DRAIN_BEGAN`` stands for; anything else as it is."""
    match argument:
        case ast.Attribute(value=ast.Name(id="EventKind"), attr=name):
            return ast.Constant(str(EventKind[name]))
    return argument


def logged_in(source: str, where: str) -> dict[str, Logged]:
    found: dict[str, Logged] = {}
    for call, levels in calls(ast.parse(source)):
        match [name_of(argument) for argument in call.args[:1]]:
            case [ast.Constant(value=str(event))]:
                logged = found.setdefault(event, Logged())
                logged.levels |= levels
                logged.keys |= {keyword.arg for keyword in call.keywords if keyword.arg}
            case _:
                raise AssertionError(f"{where}:{call.lineno}: an event's name is a constant")
    return found


def secrets_in(source: str) -> list[str]:
    """Give what calls of loggers name like a secret: keys, and what their values are read from."""
    return [
        name
        for call in ast.walk(ast.parse(source))
        if isinstance(call, ast.Call)
        and isinstance(call.func, ast.Attribute)
        and (level_of(call.func) or (call.func.attr == "bind" and is_logger(call.func.value)))
        for argument in (*call.args, *call.keywords)
        for node in ast.walk(argument)
        for name in (
            getattr(node, "arg", None) or getattr(node, "attr", None) or getattr(node, "id", ""),
        )
        if SECRET.search(name)
    ]


def logged_by(packages: tuple[str, ...]) -> dict[str, Logged]:
    found: dict[str, Logged] = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if path == PASSES_ON:
                continue
            for event, one in logged_in(path.read_text(), str(path)).items():
                logged = found.setdefault(event, Logged())
                logged.levels |= one.levels
                logged.keys |= one.keys - {"exc_info"}
    return found


def documented(section: str) -> dict[str, tuple[set[str], set[str], str]]:
    """Give levels, keys and meaning of each event in a section of the page."""
    text = re.search(rf"^## {section}\n(.*?)(?=^## |\Z)", PAGE.read_text(), re.M | re.S)
    assert text is not None, f"docs/logs.md has no section {section}"
    rows: dict[str, tuple[set[str], set[str], str]] = {}
    for row in re.findall(r"^\| `(\w+)` \| ([\w, ]+) \| (.*?) \| (.*) \|$", text[1], re.M):
        name, levels, keys, meaning = row
        assert name not in rows, f"{name} is listed twice"
        rows[name] = set(levels.split(", ")), set(re.findall(r"`(\w+)`", keys)), meaning
    return rows


@pytest.mark.parametrize("section", SECTIONS)
def test_the_page_lists_the_events_with_their_levels_and_keys(section: str) -> None:
    logged, listed = logged_by(SECTIONS[section]), documented(section)

    assert sorted(logged) == list(listed)
    for event, one in logged.items():
        levels, keys, meaning = listed[event]
        assert levels == one.levels, event
        assert one.keys <= keys, event
        assert meaning.endswith("."), event


@pytest.mark.parametrize("section", SECTIONS)
def test_names_are_snake_case_and_keys_are_those_of_everywhere(section: str) -> None:
    for event, one in logged_by(SECTIONS[section]).items():
        assert re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", event)
        assert not one.keys & OTHER_KEYS, event


@pytest.mark.parametrize("section", SECTIONS)
def test_nothing_is_logged_that_is_named_like_a_secret(section: str) -> None:
    for package in SECTIONS[section]:
        for path in sorted((ROOT / package).rglob("*.py")):
            assert secrets_in(path.read_text()) == [], path


@pytest.mark.parametrize(
    "source",
    [
        "_log.info('x', rikey=1)",
        "_log.info('x', agent_token=shown)",
        "_log.info('x', why=session.key.rikey)",
        "_log.info('x', why=f'{request.pin}')",
        "_log.bind(password='')",
        "_log.info('x', why=edge.token.get_secret_value())",
    ],
)
def test_a_secret_in_a_log_is_noticed(source: str) -> None:
    assert secrets_in(source)


@pytest.mark.parametrize(
    "source",
    [
        '_log.info(f"session_{what}")',
        "self._log.warning(name)",
        "structlog.get_logger().error(str(error))",
        "log = _log.info if good else _log.warning\nlog(name)",
        'self._fleet.events.note("a" + "b", backend)',
        "_log.exception()",
    ],
)
def test_an_event_without_a_constant_name_is_noticed(source: str) -> None:
    with pytest.raises(AssertionError, match="constant"):
        logged_in(source, "here")


def test_what_is_limited_is_logged_somewhere() -> None:
    packages = tuple(package for section in SECTIONS.values() for package in section)
    assert strangers_events <= logged_by(packages).keys()
