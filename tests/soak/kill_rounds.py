"""What rounds of merging and killing share, whichever merge is cut short."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

from tests.datapath.clients import content
from tests.gc.active import ActiveScene
from tests.soak.durable_writer import DurableWriter
from tests.support.patience import patient
from tests.support.site import MIB

CHILD = Path(__file__).parents[1] / "gc" / "crash_child.py"
SIZE = 32 * MIB

HELD = "active-leaf-coalesce: leaf-active"
"""From this step on the users of the disk may be held."""


def collecting(scene: ActiveScene) -> subprocess.Popen[str]:
    """Start a collector, which prints its steps."""
    return subprocess.Popen(
        [sys.executable, str(CHILD), scene.sr],
        env=scene.site.environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def cut_short(
    scene: ActiveScene, victim: str, first: str, longest: float, dice: random.Random
) -> bool:
    """Collect under a guest that writes, and kill the victim at a moment after the step `first`.

    The victim is `datapath` or `collector`, the moment at most `longest` seconds later. Nothing
    that was durable for the guest is lost, and the next collector finishes. Gives whether the work
    was still under way.
    """
    writer = DurableWriter(scene.uri, bytes(scene.models[scene.disk].data), dice.randrange(99))
    pid = scene.datapath_pid()
    with writer:
        collector = collecting(scene)
        assert collector.stdout is not None
        steps = (line.strip() for line in collector.stdout)
        assert first in steps, "nothing was merged"
        time.sleep(dice.uniform(0, longest))
        under_way = collector.poll() is None
        if victim == "collector":
            collector.kill()
            collector.communicate()
            if first == HELD:
                # The next one lets the disk's users go on.
                scene.collect()
        else:
            os.kill(pid, signal.SIGKILL)
            writer.cut_off()
            collector.communicate(timeout=patient(120))
    if victim == "datapath":
        scene.uri = scene.site.activate(scene.disk)
    writer.check(content(scene.uri, SIZE))
    scene.models[scene.disk].data[:] = writer.data
    scene.collect()
    scene.verify_active()
    return under_way
