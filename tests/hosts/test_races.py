"""Activation on one host against a collector that starts on another, with delays by chance."""

from __future__ import annotations

import random
import time

import pytest

from tests.datapath.clients import content, qemu_io
from tests.hosts.disks import SIZE, layered, verify, verify_tidy
from tests.hosts.hosts import Pool
from tests.support.patience import patient
from tests.support.site import MIB
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.one_in(2)


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_an_activation_never_meets_a_merge(pool: Pool, image_format: str) -> None:
    """Each is activated, before its time limit, and reads right then and ever after."""
    chance = random.Random(SEED)
    for number in range(rounds(3)):
        disk, data = layered(pool, image_format)
        delay = chance.uniform(0.2, 1.2)  # a collector needs that long to start and to end
        collector = pool.master.start_collector(pool.sr)
        time.sleep(delay)
        said = f"seed {SEED}, round {number}, delay {delay:.3f}"
        uri = pool.second.activate(disk)
        assert content(uri, SIZE) == data, said
        qemu_io(uri, f"write -P {number % 250 + 1} {5 * MIB} {MIB}")
        data = data[: 5 * MIB] + bytes([number % 250 + 1]) * MIB + data[6 * MIB :]
        out, err = collector.communicate(timeout=patient(60))
        assert (collector.returncode, out, err) == (0, "", ""), said
        assert content(uri, SIZE) == data, said
        pool.second.deactivate(disk)
        pool.master.collect(pool.sr)
        verify(pool.third, pool.sr, disk, data)
        verify_tidy(pool, 1)
        pool.master.delete(disk)
        pool.master.collect(pool.sr)
