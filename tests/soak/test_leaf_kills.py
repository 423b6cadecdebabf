"""A datapath or the collector killed at random moments of merging the leaf of a disk in use."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest

from tests.datapath.clients import content
from tests.gc.active import ActiveScene
from tests.soak.durable_writer import DurableWriter
from tests.soak.rounds import SEED, rounds
from tests.soak.test_kills import collecting
from tests.support.site import MIB, Site

SIZE = 32 * MIB
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
        writer = DurableWriter(scene.uri, bytes(scene.models[scene.disk].data), dice.randrange(99))
        pid = scene.datapath_pid()
        with writer:
            collector = collecting(scene)
            assert collector.stdout is not None
            steps = (line.strip() for line in collector.stdout)
            assert "active-leaf-coalesce: leaf-active" in steps, "no leaf was merged"
            time.sleep(dice.uniform(0, LONGEST_DELAY))
            cut += collector.poll() is None
            if victim == "collector":
                collector.kill()
                collector.communicate()
                # It may have held the disk's users; the next one lets them go on.
                scene.collect()
            else:
                os.kill(pid, signal.SIGKILL)
                writer.cut_off()
                collector.communicate(timeout=120)
        if victim == "datapath":
            scene.uri = site.activate(scene.disk)
        writer.check(content(scene.uri, SIZE))
        scene.models[scene.disk].data[:] = writer.data
        scene.collect()
        scene.verify_active()
        scene.verify_tidy(1)
    print(f"{cut} merges were cut short")
    scene.verify(crashed=victim == "datapath")
