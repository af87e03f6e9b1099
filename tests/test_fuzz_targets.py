"""The fuzz targets stay alive: each survives its seeds and a few hundred mutations of them."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from fuzz.target import Target
from fuzz.targets import TARGETS

mutations_per_target = 200
max_mutations_per_input = 8
max_input_bytes = 2_048

parsing_modules = {
    *("moonlight.announce", "moonlight.applist", "moonlight.audio", "moonlight.control"),
    *("moonlight.enet", "moonlight.enet_peer", "moonlight.http", "moonlight.identity"),
    *("moonlight.launch", "moonlight.pairing", "moonlight.ping", "moonlight.rtp"),
    *("moonlight.rtsp", "moonlight.rtsp_encryption", "moonlight.serverinfo", "moonlight.video"),
    *("moonlight.xml", "revdial.framing", "revdial.messages", "settings.loader", "agent.wolf"),
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


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
def test_a_target_survives_its_seeds_and_mutations_of_them(target: Target) -> None:
    chance = random.Random(target.name)
    seeds = target.seeds()
    assert seeds, "a target without seeds explores nothing"
    for seed in seeds:
        target(seed)
    for _ in range(mutations_per_target):
        target(mutated(chance.choice(seeds), chance))


def test_every_module_that_parses_foreign_bytes_has_a_target() -> None:
    covered = {module for target in TARGETS.values() for module in target.modules}
    assert parsing_modules <= covered
    root = Path(__file__).parent.parent
    assert all((root / f"{module.replace('.', '/')}.py").exists() for module in covered)
