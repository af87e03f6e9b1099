from __future__ import annotations

import ast
from pathlib import Path

import pytest
import trio

from backends.errors import StoreError
from proxy.errors import Refused
from proxy.outcomes import LAUNCH_REASONS, PlayOutcomes

PROXY = Path(__file__).parents[2] / "proxy"
LAUNCHING = ("play", "launching", "hosts", "host_apps", "host_pairing", "keeping_apart")
ERRORS = {"Refused", "HostUnavailable", "HostIdentityChanged", "HostRefused", "_TookTooLong"}


@pytest.mark.parametrize(
    ("error", "outcome", "reason"),
    [
        (Refused(400, "app_already_running", ""), "refused", "app_already_running"),
        (Refused(503, "all_full", ""), "failed", "all_full"),
        (StoreError("away", ""), "failed", "store"),
        (ValueError(), "failed", "bug"),
    ],
)
def test_what_a_launch_ends_with_is_counted(error: Exception, outcome: str, reason: str) -> None:
    async def main() -> PlayOutcomes:
        outcomes = PlayOutcomes()
        with pytest.raises(type(error)), outcomes.counted("launch"):
            raise error
        return outcomes

    assert trio.run(main).counts["launch", outcome, reason] == 1


async def test_a_launch_that_starts_is_timed(autojump_clock: trio.testing.MockClock) -> None:
    outcomes = PlayOutcomes()
    with outcomes.counted("launch"):
        await trio.sleep(3)
    assert outcomes.counts["launch", "started", "none"] == 1
    assert outcomes.seconds.sum == pytest.approx(3)


async def test_a_client_that_hangs_up_has_given_up(
    autojump_clock: trio.testing.MockClock,
) -> None:
    outcomes = PlayOutcomes()
    with trio.move_on_after(1), outcomes.counted("resume"):
        await trio.sleep_forever()
    assert outcomes.counts["resume", "given_up", "none"] == 1


def reasons_in(module: str) -> set[str]:
    """The reasons that a module's own errors have, as they are written in it."""
    return {
        argument.value
        for node in ast.walk(ast.parse((PROXY / f"{module}.py").read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ERRORS
        for argument in node.args[:2]
        if isinstance(argument, ast.Constant) and isinstance(argument.value, str)
    }


@pytest.mark.parametrize("module", LAUNCHING)
def test_every_reason_that_a_launch_can_fail_for_has_its_counter(module: str) -> None:
    assert reasons_in(module) - LAUNCH_REASONS == set()


def test_the_walk_sees_the_reasons() -> None:
    assert {"draining", "host_asleep", "session_ended"} <= reasons_in("play")
    assert "host_timeout" in reasons_in("hosts")
