"""The service of the host that serves a disk, killed at random moments of a merge below it."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.hosts.disks import verify, verify_tidy
from tests.hosts.hosts import Pool
from tests.soak.durable_writer import DurableWriter
from tests.support.patience import patient
from tests.support.site import MIB
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.world

SIZE = 32 * MIB
LONGEST_DELAY = 1.2
"""Seconds after the start of a collector, which needs about half of them to start."""


def test_killed_host_service(tmp_path: Path) -> None:
    """A guest on the second host writes; the master merges through it, by a service that dies."""
    dice = random.Random(SEED)
    print(f"SM_SEED={SEED}")
    pool = Pool(tmp_path)
    try:
        disk = pool.master.create_vdi(pool.sr, "qcow2", SIZE)
        uri = pool.second.activate(disk)
        data, kept, cut = bytes(SIZE), "", 0
        for _ in range(rounds(4)):
            doomed = pool.master.snapshot(disk)
            start, byte = dice.randrange(16) * MIB, dice.randint(1, 255)
            qemu_io(uri, f"write -P {byte} {start} {12 * MIB}", "flush")
            data = data[:start] + bytes([byte]) * (12 * MIB) + data[start + 12 * MIB :]
            old, kept = kept, pool.master.snapshot(disk)
            for uuid in filter(None, (doomed, old)):
                pool.master.delete(uuid)
            with DurableWriter(uri, data, dice.randrange(99)) as writer:
                collector = pool.master.start_collector(pool.sr)
                time.sleep(dice.uniform(0.3, LONGEST_DELAY))
                cut += collector.poll() is None
                pool.second.kill()
                collector.communicate(timeout=patient(120))
                pool.second.start()
                pool.master.collect(pool.sr)
            data = bytes(writer.data)
            assert content(uri, SIZE) == data
            verify_tidy(pool, 3)
        print(f"{cut} services died while the collector worked")
        pool.second.deactivate(disk)
        verify(pool.third, pool.sr, disk, data)
    finally:
        pool.close()
