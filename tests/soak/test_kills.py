"""A datapath or the collector killed at random moments of a merge below a disk in use.

`SM_ROUNDS=100 pytest tests/soak` runs as long as docs/reliability.md tells of.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.datapath.clients import content
from tests.gc.active import ActiveScene
from tests.soak.durable_writer import DurableWriter
from tests.soak.rounds import SEED, rounds
from tests.support.site import MIB, Site

CHILD = Path(__file__).parents[1] / "gc" / "crash_child.py"
SIZE = 32 * MIB
LONGEST_DELAY = 0.12
"""Seconds after the beginning of the copy; most merges here are over by then."""


def collecting(scene: ActiveScene) -> subprocess.Popen[str]:
    """Start a collector, which prints its steps."""
    return subprocess.Popen(
        [sys.executable, str(CHILD), scene.sr, "0"],
        env=scene.site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def merging(scene: ActiveScene) -> subprocess.Popen[str]:
    """Start a collector, and return when it begins to merge."""
    child = collecting(scene)
    assert child.stdout is not None
    begin = "coalesce: copy" if scene.image_format == "vhd" else "coalesce: commit"
    for line in child.stdout:
        if line.strip() == begin:
            return child
    raise AssertionError("nothing was merged")


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
    cut = 0
    for _ in range(rounds(4)):
        prepare(scene, dice)
        writer = DurableWriter(scene.uri, bytes(scene.models[scene.disk].data), dice.randrange(99))
        pid = scene.datapath_pid()
        with writer:
            collector = merging(scene)
            time.sleep(dice.uniform(0, LONGEST_DELAY))
            if victim == "collector":
                cut += collector.poll() is None
                collector.kill()
                collector.communicate()
            else:
                cut += collector.poll() is None
                os.kill(pid, signal.SIGKILL)
                writer.cut_off()
                collector.communicate(timeout=120)
        if victim == "datapath":
            scene.uri = site.activate(scene.disk)
        writer.check(content(scene.uri, SIZE))
        scene.models[scene.disk].data[:] = writer.data
        scene.collect()
        scene.verify_active()
        # The base with the one snapshot that is kept, and the disk.
        scene.verify_tidy(3)
    print(f"{cut} merges were cut short")
    scene.verify()
