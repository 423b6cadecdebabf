"""A volume group as a volume store: the contract of all stores, and what only volumes have."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.config import load
from sm.volumes.lvm import making, opening
from sm.volumes.lvm.sizes import Allocation
from sm.volumes.lvm.store import LvmStore
from tests.lvm.conftest import MIB
from tests.support.lvm.loop import LoopDisk
from tests.volumes.contract import FORMATS, VolumeStoreContract

GROUP = "VG_XenStorage-00000000-0000-4000-8000-0000000000ff"


@pytest.fixture(params=["thick", "thin"])
def store(
    request: pytest.FixtureRequest, loop_disk: Callable[[int], LoopDisk], tmp_path: Path
) -> LvmStore:
    """An empty store on a disk of its own, by either way of allocation."""
    settings = load(tmp_path / "root", os.environ)
    disk = loop_disk(1024 * MIB)
    allocation = Allocation(request.param)
    making.make_group(GROUP, [Path(disk.device)], allocation, settings)
    place = opening.place_of(GROUP, [Path(disk.device)], allocation)
    return opening.open_store(place, FORMATS, settings)


class TestContract(VolumeStoreContract):
    """The contract of all stores."""
