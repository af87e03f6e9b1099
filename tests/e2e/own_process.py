"""Running one test in a process of its own, where it may change what its threads share.

A thread that is begun while its process is in another network namespace stays there, and trio keeps
its worker threads for the next test: processes that they start would look for the edge where it is
not.
"""

from __future__ import annotations

import os
import sys

import pytest
import trio

_alone = "MOONHOST_TEST_ALONE"
_timeout_s = 120.0


async def passed_in_own_process(request: pytest.FixtureRequest) -> bool:
    """Run the requesting test once more, in a new process; False within that process.

    Skips where it skips there, and fails where it fails.
    """
    if _alone in os.environ:
        return False
    with trio.fail_after(_timeout_s):
        ran = await trio.run_process(
            [
                *(sys.executable, "-m", "pytest", "-q", "-rs", "-p", "no:cacheprovider"),
                request.node.nodeid,
            ],
            env=os.environ | {_alone: "1"},
            cwd=request.config.rootpath,
            capture_stdout=True,
            check=False,
        )
    said = ran.stdout.decode(errors="replace")
    assert ran.returncode == 0, said
    if "1 passed" not in said:
        pytest.skip(said.strip().splitlines()[-2])
    return True
