"""The fuzz targets stay alive: each survives its seeds and a few hundred mutations of them."""

from __future__ import annotations

import random
import statistics
import sys
from operator import truediv
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from fuzz.target import Target
from fuzz.targets import TARGETS

mutations_per_target = 200
max_mutations_per_input = 8
max_input_bytes = 2_048

# Work is counted in lines of ours that ran: unlike time it is the same on every machine.
max_work_over_median = 100
work_free_bytes = 64
long_input_bytes = 2_048
max_growth = 3
work_free_lines = 2_000
root = Path(__file__).parent.parent

parsing_modules = {
    *("moonlight.announce", "moonlight.applist", "moonlight.audio", "moonlight.control"),
    *("moonlight.enet", "moonlight.enet_peer", "moonlight.http", "moonlight.identity"),
    *("moonlight.launch", "moonlight.pairing", "moonlight.ping", "moonlight.rtp"),
    *("moonlight.rtsp", "moonlight.rtsp_encryption", "moonlight.serverinfo", "moonlight.video"),
    *("moonlight.video_encryption", "moonlight.wake", "moonlight.xml", "revdial.framing"),
    *("revdial.messages", "settings.loader", "agent.wolf", "proxy.leg_encryption"),
    *("proxy.control_proof", "revdial.probes", "revdial.proxy_protocol"),
    *("proxy.admin.credentials", "proxy.admin.jwts", "proxy.admin.origin"),
    *("proxy.rtp_loss", "proxy.session_records", "proxy.translation"),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Flip, cut, repeat and insert, a few times over."""
    changed = bytearray(data[:max_input_bytes])
    for _ in range(chance.randint(1, max_mutations_per_input)):
        at = chance.randrange(len(changed) + 1)
        match chance.randrange(4):
            case 0 if changed:
                changed[at % len(changed)] = chance.randrange(256)
            case 1:
                del changed[at : at + chance.randrange(32)]
            case 2:
                changed[at:at] = changed[at : at + chance.randrange(64)]
            case _:
                changed[at:at] = chance.randbytes(chance.randrange(16))
    return bytes(changed)


def work(target: Target, data: bytes) -> int:
    """Count the lines outside of fuzz/ and libraries that one input makes run."""
    own = {str(root / module.partition(".")[0]) for module in target.modules}
    count = 0

    def line(_frame: FrameType, event: str, _argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return line

    def call(frame: FrameType, _event: str, _argument: Any) -> Any:
        return line if frame.f_code.co_filename.startswith(tuple(own)) else None

    before = sys.gettrace()
    sys.settrace(call)
    try:
        target(data)
    finally:
        sys.settrace(before)
    return count


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_survives_its_seeds_and_mutations_of_them(target: Target) -> None:
    chance = random.Random(target.name)
    seeds = target.seeds()
    assert seeds, "a target without seeds explores nothing"
    for seed in seeds:
        target(seed)
    for _ in range(mutations_per_target):
        target(mutated(chance.choice(seeds), chance))


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_no_input_costs_far_more_than_others_of_its_length(target: Target) -> None:
    chance = random.Random(target.name)
    seeds = [seed[:max_input_bytes] for seed in target.seeds()]
    inputs = [*seeds, *(mutated(chance.choice(seeds), chance) for _ in range(20))]
    lengths = [len(data) + work_free_bytes for data in inputs]
    costs = [work(target, data) for data in inputs]
    usual = statistics.median(map(truediv, costs, lengths))
    for cost, length in zip(costs, lengths, strict=True):
        assert cost <= max_work_over_median * usual * length + work_free_lines


@pytest.mark.parametrize("chunk", [0, 1], ids=["whole", "byte by byte"])
@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_twice_the_input_costs_about_twice_the_work(target: Target, chunk: int) -> None:
    """The first byte is the chunk size, for targets that take chunks."""
    for seed in (b"a", target.seeds()[0][1:] or b"a"):
        once, twice = (
            work(target, bytes([chunk]) + (seed * (length // len(seed) + 1))[:length])
            for length in (long_input_bytes, 2 * long_input_bytes)
        )
        assert twice <= max_growth * once + work_free_lines


def test_every_module_that_parses_foreign_bytes_has_a_target() -> None:
    covered = {module for target in TARGETS.values() for module in target.modules}
    assert parsing_modules <= covered
    assert all((root / f"{module.replace('.', '/')}.py").exists() for module in covered)
