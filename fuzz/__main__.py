"""Runs targets under coverage guidance: ``python -m fuzz [--target NAME] [--seconds N]``.

Without ``--target`` all run, one after the other, each in a process of its own. Inputs that found
something new, and inputs that broke something, are kept outside of the checkout: they may hold
pieces of recordings.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import os
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.target import Target

instrumented = ("settings", "moonlight", "revdial", "proxy", "agent", "h11")
max_input_bytes = 8192
max_input_s = 5
max_memory_mb = 1024


def main() -> int:
    """Read the command line and fuzz; the exit status is 0 where nothing was found."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description="Fuzz moonhost's parsers.")
    parser.add_argument("--target", help="only this one; 'list' names them all")
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--seed", type=int, default=1, help="of the mutations (default: 1)")
    options = parser.parse_args()
    try:
        atheris = importlib.import_module("atheris")
    except ImportError:
        sys.stderr.write("Fuzzing needs atheris. Install it: pip install -e '.[fuzz]'\n")
        return 2
    # What is imported here, and nothing before, reports its coverage.
    with atheris.instrument_imports(include=list(instrumented)):
        targets = _targets()
    if options.target == "list":
        sys.stdout.write("".join(f"{name}\n" for name in targets))
        return 0
    if options.target is None:
        return _run_all(targets, options.seconds, options.seed)
    if options.target not in targets:
        sys.stderr.write(f"There is no target {options.target}; --target list names them.\n")
        return 2
    warnings.simplefilter("error")
    target = targets[options.target]
    atheris.Setup(_arguments(target, options.seconds, options.seed), target)
    atheris.Fuzz()  # ends the process
    return 0


def _targets() -> dict[str, Target]:
    from fuzz.targets import TARGETS

    return TARGETS


def _run_all(names: Iterable[str], seconds: int, seed: int) -> int:
    failed = []
    for name in names:
        sys.stderr.write(f"== {name}\n")
        command = [sys.executable, "-m", "fuzz", "--target", name]
        command += ["--seconds", str(seconds), "--seed", str(seed)]
        if subprocess.run(command, check=False).returncode:  # noqa: S603 - our own command line
            failed.append(name)
    sys.stderr.write(f"found something: {', '.join(failed) or 'none'}\n")
    return 1 if failed else 0


def _arguments(target: Target, seconds: int, seed: int) -> list[str]:
    """Write the seeds where libFuzzer finds them, and say how it is to run."""
    place = Path(tempfile.gettempdir()) / f"moonhost-fuzz-{os.getuid()}" / target.name
    corpus = place / "corpus"
    corpus.mkdir(mode=0o700, parents=True, exist_ok=True)
    for data in target.seeds():
        cut = data[:max_input_bytes]
        (corpus / hashlib.sha256(cut).hexdigest()[:16]).write_bytes(cut)
    sys.stderr.write(f"inputs are kept in {place}\n")
    return [
        "fuzz",
        f"-max_total_time={seconds}",
        f"-seed={seed}",
        f"-max_len={max_input_bytes}",
        f"-timeout={max_input_s}",
        f"-rss_limit_mb={max_memory_mb}",
        f"-artifact_prefix={place}/",
        "-print_final_stats=1",
        str(corpus),
    ]


if __name__ == "__main__":
    sys.exit(main())
