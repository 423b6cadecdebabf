"""Activation races the start of an offline merge: never both, never a wrong byte, never stuck."""

from __future__ import annotations

import random
import time

import pytest

from tests.datapath.clients import content, qemu_io
from tests.gc.active import ActiveScene
from tests.soak.kill_rounds import SIZE, collecting
from tests.support import guest
from tests.support.patience import patient
from tests.support.site import MIB, Site
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.world

LONGEST_DELAY = 0.5
"""Seconds by which one of the two is started later: about what a process takes to start."""


def test_activation_races_a_merge(cow_format: str, site: Site) -> None:
    dice = random.Random(SEED)
    print(f"SM_SEED={SEED}")
    scene = ActiveScene(site, cow_format, SIZE)
    disk, model = scene.disk, scene.models[scene.disk]
    first = 0
    for _ in range(rounds(5)):
        for uuid in [uuid for uuid in scene.models if uuid != disk]:
            scene.delete(uuid)
        for _ in range(2):
            scene.write(dice.randrange(16) * MIB, dice.randint(1, 16) * MIB, dice.randint(1, 255))
            scene.snapshot()
        scene.delete(next(uuid for uuid in scene.models if uuid != disk))
        site.deactivate(disk)
        assert guest.content(site.chain(scene.sr, disk)) == model.data

        delay = dice.uniform(-LONGEST_DELAY, LONGEST_DELAY)
        if delay < 0:
            activation = site.start("vdi", "activate", disk)
            time.sleep(-delay)
            collector = collecting(scene)
        else:
            collector = collecting(scene)
            time.sleep(delay)
            activation = site.start("vdi", "activate", disk)
        scene.uri = site.result(activation)["nbd"]
        first += collector.poll() is None
        assert content(scene.uri, SIZE) == model.data
        qemu_io(scene.uri, f"write -P 7 {20 * MIB} {MIB}", "flush")
        model.data[20 * MIB : 21 * MIB] = bytes([7]) * MIB
        collector.communicate(timeout=patient(120))
        assert collector.returncode == 0
        scene.collect()
        scene.verify_active()
        scene.verify_tidy(3)
    print(f"{first} activations ended before the collector")
    scene.verify()
