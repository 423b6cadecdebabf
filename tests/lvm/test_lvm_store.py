"""A volume group as a volume store: the contract of all stores, and what only volumes have."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.config import load
from sm.cowutil.device import is_sealed
from sm.cowutil.vhd.footer import NO_OFFSET, Footer, Kind
from sm.volumes.base import Room
from sm.volumes.lvm import making, opening
from sm.volumes.lvm.sizes import Allocation
from sm.volumes.lvm.store import LvmStore
from tests.lvm.conftest import MIB
from tests.support.lvm.loop import attached
from tests.volumes.contract import FORMATS, A, B, VolumeStoreContract, add, nothing, size_of

pytestmark = pytest.mark.one_in(2)

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

    alone = True


def fixed_footers(path: Path, size: int) -> None:
    """Fill a volume with what a scan must never believe: at each MiB the end of a fixed disk."""
    footer = Footer(Kind.FIXED, size, size, NO_OFFSET, 0, bytes(16)).pack()
    with path.open("r+b", buffering=0) as volume:
        for at in range(MIB, size + 1, MIB):
            volume.seek(at - len(footer))
            volume.write(footer)
        os.fsync(volume.fileno())


def test_former_content_is_not_taken_for_an_end_of_an_image(store: LvmStore) -> None:
    """What a volume is extended by was somebody's data."""
    add(store, A, 64, "vhd")
    FORMATS.cow("vhd").set_hidden(store.path(A, "vhd"), True)
    store.trim(A, "vhd")
    free = store.space().free
    store.create(B, "raw", lambda path: fixed_footers(path, free), nothing, Room(free, free))
    store.remove(B, "raw")
    store.reserve(A, "vhd", 24 * MIB)
    assert FORMATS.get("vhd").check(store.path(A, "vhd")).clean
    assert size_of(store, A, "vhd") == 64
    store.make_room(A, "vhd", Room(48 * MIB, 60 * MIB), in_use=True)
    for _, path in store.headers(store.listing().volumes):
        assert FORMATS.get("vhd").info(path).virtual_size == 64 * MIB
    store.make_room(A, "vhd", Room(48 * MIB, 60 * MIB), in_use=False)
    assert FORMATS.get("vhd").check(store.path(A, "vhd")).clean
    assert store.unfinished() == ()


def test_a_sealed_volume_is_only_read_but_for_changes(store: LvmStore) -> None:
    add(store, A, 64)
    path = store.path(A, "qcow2")
    FORMATS.cow("qcow2").set_hidden(path, True)
    assert not is_sealed(path)
    store.trim(A, "qcow2")
    assert is_sealed(path)
    with store.writing(A, "qcow2"):
        assert not is_sealed(path)
    assert is_sealed(path)
    store.reserve(A, "qcow2", 0)
    assert not is_sealed(path)


def test_metadata_is_read_as_lvm_reports_it(store: LvmStore) -> None:
    add(store, A, 64)
    add(store, B, 32, "vhd")
    store.trim(B, "vhd")
    group = store._group
    rows = group.lvm.report("lvs", "-o", "lv_name,lv_uuid,lv_size,lv_attr", group.name)
    told = {row["lv_name"]: (row["lv_uuid"], int(row["lv_size"])) for row in rows}
    now = group.now()
    assert {volume.name: (volume.id, volume.size) for volume in now.volumes.values()} == told
    (row,) = group.lvm.report("vgs", "-o", "vg_uuid,vg_seqno,vg_size,vg_free", group.name)
    assert (now.id, now.seqno) == (row["vg_uuid"], int(row["vg_seqno"]))
    assert (now.total, now.total - now.used) == (int(row["vg_size"]), int(row["vg_free"]))


def test_free_space_is_discarded(store: LvmStore) -> None:
    free = store.space().free
    store.create(A, "raw", lambda path: fixed_footers(path, free), nothing, Room(free, free))
    store.remove(A, "raw")
    assert store.discard_free() == free
    assert store.unfinished() == ()
    assert store.space().free == free
    with store._group.opened() as view:
        assert view.group.used == sum(volume.size for volume in view.group.volumes.values())


def test_a_hidden_raw_volume_of_another_manager(store: LvmStore) -> None:
    add(store, A, 4, "raw")
    store._group.change("lvchange", "--addtag", "hidden", f"{GROUP}/LV-{A}")
    (volume,) = store.listing().volumes
    assert volume.hidden


def test_parents_are_named_in_either_way(store: LvmStore) -> None:
    assert store.parent_uuid(f"VHD-{A}") == (A, "vhd")
    assert store.parent_uuid(f"/dev/{GROUP}/QCOW2-{A}") == (A, "qcow2")
    for name in (f"/dev/other/QCOW2-{A}", f"/dev/{GROUP}/{A}", f"new-VHD-{A}", f"../VHD-{A}", ""):
        assert store.parent_uuid(name) is None
