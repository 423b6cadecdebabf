"""Disks on LVM SRs: made, written, copied, merged, deleted, as on any other SR."""

from __future__ import annotations

import pytest

from tests.datapath.clients import content, qemu_io
from tests.lvm.conftest import LAYOUTS, MIB, LvmSite
from tests.support import guest
from tests.support.site import Refused

pytestmark = pytest.mark.one_in(5, across="file")


@pytest.mark.parametrize(("allocation", "image_format"), LAYOUTS)
def test_a_disk_from_its_making_to_its_end(site: LvmSite, image_format: str) -> None:
    sr = site.create_sr()
    empty = site.repository(sr).store.space().free
    disk = site.create_vdi(sr, image_format, 64 * MIB)
    uri = site.activate(disk)
    qemu_io(uri, f"write -P 1 0 {8 * MIB}", f"write -P 2 {32 * MIB} {MIB}", "flush")
    snapshot = site.snapshot(disk)
    qemu_io(uri, f"write -P 3 {4 * MIB} {8 * MIB}", "flush")
    data = b"\x01" * (4 * MIB) + b"\x03" * (8 * MIB) + bytes(20 * MIB) + b"\x02" * MIB
    assert content(uri, 64 * MIB) == data.ljust(64 * MIB, b"\0")
    site.deactivate(disk)
    kept = (b"\x01" * (8 * MIB) + bytes(24 * MIB) + b"\x02" * MIB).ljust(64 * MIB, b"\0")
    assert guest.content(site.chain(sr, snapshot)) == kept
    assert guest.content(site.chain(sr, disk)) == data.ljust(64 * MIB, b"\0")
    site.delete(snapshot)
    site.sm("gc", "run", "--sr", sr)
    assert len(site.images(sr)) == 1
    assert guest.content(site.chain(sr, disk)) == data.ljust(64 * MIB, b"\0")
    site.delete(disk)
    site.sm("gc", "run", "--sr", sr)
    assert site.images(sr) == set()
    assert site.repository(sr).store.space().free == empty
    site.sm("sr", "destroy", sr)


@pytest.mark.parametrize("allocation", ["thick"])
@pytest.mark.parametrize("image_format", ["qcow2", "vhd", "raw"])
def test_a_disk_is_made_larger(site: LvmSite, image_format: str) -> None:
    """What is added reads as zero, whatever the volume group held there before."""
    sr = site.create_sr(size=256 * MIB)
    store = site.repository(sr).store
    junk = site.create_vdi(sr, "raw", store.space().free)
    path = site.chain(sr, junk)[0].path
    with path.open("r+b") as volume:
        for _ in range(8):
            volume.write(b"\xee" * (4 * MIB))
    site.delete(junk)
    disk = site.create_vdi(sr, image_format, 8 * MIB)
    guest.write(site.chain(sr, disk), 0, 8 * MIB, 7)
    site.sm("vdi", "resize", disk, "--size", str(24 * MIB))
    assert guest.content(site.chain(sr, disk)) == b"\x07" * (8 * MIB) + bytes(16 * MIB)
    assert guest.check_clean(site.chain(sr, disk)) == []


@pytest.mark.parametrize("allocation", ["thick"])
def test_a_copy_for_which_there_is_no_room_is_not_begun(site: LvmSite, cow_format: str) -> None:
    """The new leaf may be written to as a whole, which the group has no space for."""
    sr = site.create_sr(size=256 * MIB)
    disk = site.create_vdi(sr, cow_format, 140 * MIB)
    store = site.repository(sr).store
    before = store.change_mark(), store.space()
    for command in ("snapshot", "clone"):
        for more in (("--dry-run",), ()):
            with pytest.raises(Refused) as refused:
                site.sm("vdi", command, disk, *more)
            assert refused.value.error["name"] == "SRNoSpace"
    assert (store.change_mark(), store.space()) == before
    site.delete(disk)
    site.sm("gc", "run", "--sr", sr)
    disk = site.create_vdi(sr, cow_format, 64 * MIB)
    said = site.sm("vdi", "snapshot", disk, "--dry-run")["bytes"]
    assert 64 * MIB < said <= store.space().free
    site.snapshot(disk)


def test_an_inner_image_is_merged_while_nobody_uses_its_disk(
    site: LvmSite, cow_format: str
) -> None:
    """Both images are hidden, so their volumes may only be read until then; the lower one stays."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, 16 * MIB)
    data, snapshots = bytearray(16 * MIB), []
    for number, length in ((1, 8 * MIB), (2, MIB), (3, MIB)):
        uri = site.activate(disk)
        qemu_io(uri, f"write -P {number} {number * MIB} {length}", "flush")
        site.deactivate(disk)
        data[number * MIB : number * MIB + length] = bytes([number]) * length
        if number < 3:
            snapshots.append(site.snapshot(disk))
            kept = bytes(data)
    site.delete(snapshots[0])
    done = site.sm("gc", "run", "--sr", sr)["done"]
    assert [step["action"] for step in done] == ["delete", "coalesce"]
    assert guest.content(site.chain(sr, disk)) == data
    assert guest.content(site.chain(sr, snapshots[1])) == kept
