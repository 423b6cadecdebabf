"""A datapath or the collector killed at random moments of a merge below a disk in use.

`SM_ROUNDS=100 pytest tests/soak` runs as long as docs/reliability.md tells of.
"""

from __future__ import annotations

import random

import pytest

from tests.gc.active import ActiveScene
from tests.soak.kill_rounds import SIZE, cut_short
from tests.support.site import MIB, Site
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.world

LONGEST_DELAY = 0.12
"""Seconds after the beginning of the copy; most merges here are over by then."""


def prepare(scene: ActiveScene, dice: random.Random) -> None:
    """Leave the collector one image of several megabytes to merge, below the active leaf."""
    first = scene.snapshot()
    start = dice.randrange(0, 16) * MIB
    scene.write(start, dice.randint(4, 16) * MIB, dice.randint(1, 255))
    second = scene.snapshot()
    for uuid in [uuid for uuid in scene.models if uuid not in (scene.disk, second)]:
        scene.delete(uuid)
    assert first not in scene.models


@pytest.mark.parametrize("victim", ["datapath", "collector"])
def test_killed_while_merging(victim: str, cow_format: str, site: Site) -> None:
    dice = random.Random(SEED)
    print(f"SM_SEED={SEED}")
    scene = ActiveScene(site, cow_format, SIZE)
    scene.write(0, 8 * MIB, 1)
    first = "coalesce: copy" if cow_format == "vhd" else "coalesce: commit"
    cut = 0
    for _ in range(rounds(4)):
        prepare(scene, dice)
        cut += cut_short(scene, victim, first, LONGEST_DELAY, dice)
        # The base with the one snapshot that is kept, and the disk.
        scene.verify_tidy(3)
    print(f"{cut} merges were cut short")
    scene.verify()
