"""A volume group as a volume store: the contract of all stores, and what only volumes have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.config import load
from sm.volumes.lvm import making, opening
from sm.volumes.lvm.sizes import Allocation
from sm.volumes.lvm.store import LvmStore
from tests.lvm.conftest import MIB
from tests.support.lvm.loop import attached
from tests.volumes.contract import FORMATS, VolumeStoreContract

GROUP = "VG_XenStorage-00000000-0000-4000-8000-0000000000ff"


@pytest.fixture(scope="module", params=["thick", "thin"])
def group_store(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[LvmStore]:
    """A store on a disk of its own, by either way of allocation, for all tests of the file."""
    folder = tmp_path_factory.mktemp("store")
    settings = load(folder / "root", os.environ)
    allocation = Allocation(request.param)
    with attached(folder / "disk", 1024 * MIB) as disk:
        making.make_group(GROUP, [Path(disk.device)], allocation, settings)
        place = opening.place_of(GROUP, [Path(disk.device)], allocation)
        yield opening.open_store(place, FORMATS, settings)
        making.remove_group(place, settings)


@pytest.fixture
def store(group_store: LvmStore) -> Iterator[LvmStore]:
    """The store, empty."""
    yield group_store
    group_store.remove_unfinished()
    for volume in group_store.listing().volumes:
        group_store.remove(volume.uuid, volume.format)


class TestContract(VolumeStoreContract):
    """The contract of all stores."""
