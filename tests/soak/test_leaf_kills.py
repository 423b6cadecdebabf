"""A datapath or the collector killed at random moments of merging the leaf of a disk in use."""

from __future__ import annotations

import random

import pytest

from tests.gc.active import ActiveScene
from tests.soak.kill_rounds import HELD, SIZE, cut_short
from tests.support.site import MIB, Site
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.world

LONGEST_DELAY = 0.25
"""Seconds after the journal entry; most merges here are over by then."""


def prepare(scene: ActiveScene, dice: random.Random) -> None:
    """Leave the collector a leaf of several megabytes over a hidden image."""
    doomed = scene.snapshot()
    scene.write(dice.randrange(0, 16) * MIB, dice.randint(1, 6) * MIB, dice.randint(1, 255))
    scene.delete(doomed)


@pytest.mark.parametrize("victim", ["datapath", "collector"])
def test_killed_while_merging_a_leaf(victim: str, cow_format: str, site: Site) -> None:
    dice = random.Random(SEED)
    print(f"SM_SEED={SEED}")
    scene = ActiveScene(site, cow_format, SIZE)
    scene.write(0, 8 * MIB, 1)
    cut = 0
    for _ in range(rounds(3)):
        prepare(scene, dice)
        cut += cut_short(scene, victim, HELD, LONGEST_DELAY, dice)
        scene.verify_tidy(1)
    print(f"{cut} merges were cut short")
    scene.verify(crashed=victim == "datapath")
