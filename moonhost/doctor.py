"""The command that checks a deployment, on the edge's machine or on an agent's."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path
from typing import Final

import cyclopts

from moonhost import logs
from moonhost.checks.edge import check_edge
from moonhost.checks.finding import Finding, Mark, has_problem, ok, problem
from moonhost.cli_options import (
    AgentConfigPath,
    AsJson,
    ProxyConfigPath,
    default_agent_config,
    default_proxy_config,
    existing,
    proxy_settings,
)
from moonhost.errors import CommandFailed, Unreadable
from moonhost.words import plain
from settings import ConfigError

_check_width: Final = 16
_mark_width: Final = max(len(mark) for mark in Mark)

doctor_app = cyclopts.App(name="doctor", help="Check a deployment, and say what to do.")


@doctor_app.default
async def doctor(
    *, config: ProxyConfigPath = default_proxy_config, as_json: AsJson = False
) -> None:
    """Check an edge on its own machine, whether it runs or not. It changes nothing.

    The exit status is 1 if there is a problem; warnings are none.
    """
    try:
        settings = proxy_settings(config)
    except (ConfigError, CommandFailed) as error:
        _finish(_mistakes(config, error), as_json)
        return
    logs.configure("error")
    found = await check_edge(settings, f"moonhost doctor --config {config}")
    _finish([_valid(config), *found], as_json)


@doctor_app.command(name="agent")
async def doctor_agent(
    *, config: AgentConfigPath = default_agent_config, as_json: AsJson = False
) -> None:
    """Check an agent on its own machine: its way to the edge, and its hosts.

    An agent that is connected stays so.
    """
    from agent.config import load
    from moonhost.checks.agent import check_agent

    try:
        settings = load(existing(config, "agent.example.toml"))
    except (ConfigError, CommandFailed) as error:
        _finish(_mistakes(config, error), as_json)
        return
    logs.configure("error")
    found = await check_agent(settings, config, f"moonhost doctor agent --config {config}")
    _finish([_valid(config), *found], as_json)


def _valid(config: Path) -> Finding:
    return ok("configuration", f"{config} is valid")


def _mistakes(config: Path, error: ConfigError | CommandFailed) -> list[Finding]:
    """Return every mistake in a configuration; nothing else can be checked with it."""
    if isinstance(error, Unreadable):
        return [problem("configuration", error.seen, error.remedy)]
    if isinstance(error, CommandFailed):
        return [problem("configuration", str(error), "Copy the example, and fill it in.")]
    return [
        problem(
            "configuration",
            f"{mistake.path}: {mistake.message}" if mistake.path else mistake.message,
            f"Correct it in {config}, or in the environment.",
        )
        for mistake in error.problems
    ]


def _finish(findings: Sequence[Finding], as_json: bool) -> None:
    failed = has_problem(findings)
    if as_json:
        print(json.dumps({"ok": not failed, "findings": [_told(found) for found in findings]}))
    else:
        for line in lines(findings):
            print(line)
    if failed:
        sys.exit(1)


def _told(finding: Finding) -> dict[str, str]:
    return {
        "check": finding.check,
        "mark": finding.mark.replace(" ", "_"),
        "seen": plain(finding.seen),
        "remedy": plain(finding.remedy),
    }


def lines(findings: Sequence[Finding]) -> Iterator[str]:
    """Write findings for a person: a line each, what to do below it, and how many there are.

    What is to do about several in a row is said once, below the last.
    """
    for finding, following in zip_longest(findings, findings[1:]):
        seen = plain(finding.seen)
        start = f"{finding.mark:<{_mark_width}}  {finding.check:<{_check_width}}  "
        if finding.mark is Mark.NOT_CHECKED:
            yield f"{start}{seen}: {plain(finding.remedy)}"
            continue
        yield f"{start}{seen}"
        if finding.remedy and not (following and following.remedy == finding.remedy):
            yield f"{'':{len(start)}}-> {plain(finding.remedy)}"
    counted = [
        (mark, sum(finding.mark is mark for finding in findings))
        for mark in (Mark.PROBLEM, Mark.WARNING)
    ]
    told = [f"{count} {mark}{'s' if count > 1 else ''}" for mark, count in counted if count]
    yield f"{', '.join(told)}." if told else "Nothing is wrong."
