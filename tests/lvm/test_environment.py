"""What tests of volumes stand on works as they need it: LVM, and the devices that break a disk."""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.lvm.conftest import EXTENT_SIZE, MIB, VolumeGroup
from tests.support.lvm import write_log
from tests.support.lvm.loop import LoopDisk
from tests.support.lvm.mapping import Flakey, Recorded, load
from tests.support.lvm.tools import SECTOR, call, read_direct, size_of, write_durably

Disks = Callable[[int], LoopDisk]
BLOCK = 4096


def create(group: VolumeGroup, name: str, extents: int) -> Path:
    call("lvcreate", "--yes", "--extents", str(extents), "--name", name, group.name)
    return group.path(name)


def test_a_volume_grows_and_is_renamed_while_it_is_open(volume_group: VolumeGroup) -> None:
    volume = create(volume_group, "old", 2)
    assert size_of(volume) == 2 * EXTENT_SIZE
    with volume.open("r+b", buffering=0) as user:
        user.write(b"a" * BLOCK)
        call("lvextend", "--extents", "5", volume)
        assert size_of(volume) == 5 * EXTENT_SIZE
        call("lvrename", volume_group.name, "old", "new")
        user.seek(4 * EXTENT_SIZE)
        user.write(b"b" * BLOCK)
        os.fsync(user)
    assert not volume.is_symlink()
    renamed = volume_group.path("new")
    assert read_direct(renamed, 0, BLOCK) == b"a" * BLOCK
    assert read_direct(renamed, 4 * EXTENT_SIZE, BLOCK) == b"b" * BLOCK


def test_a_refresh_brings_back_what_the_metadata_say(volume_group: VolumeGroup) -> None:
    volume = create(volume_group, "volume", 3)
    name = volume.resolve().name
    start, _, rest = call("dmsetup", "table", name).strip().split(" ", 2)
    load(name, f"{start} {EXTENT_SIZE // SECTOR} {rest}")
    assert size_of(volume) == EXTENT_SIZE
    call("lvchange", "--refresh", volume)
    assert size_of(volume) == 3 * EXTENT_SIZE


def test_a_volume_goes_with_its_names(volume_group: VolumeGroup) -> None:
    volume = create(volume_group, "volume", 1)
    node = volume.resolve()
    assert node.is_block_device()
    call("lvremove", "--yes", volume)
    assert not node.exists()
    assert not volume.is_symlink()


def test_the_log_has_the_writes_up_to_each_mark(loop_disk: Disks, tmp_path: Path) -> None:
    disk, log = loop_disk(2 * MIB), loop_disk(8 * MIB)
    recorded = Recorded(disk.device, log.device)
    assert size_of(recorded.path) == MIB
    content = bytearray(MIB)
    states = {"start": bytes(content)}
    recorded.mark("start")
    for number, name in enumerate(("one", "two", "three")):
        offset, data = number * 3 * BLOCK, name[:1].encode() * 5 * BLOCK
        write_durably(recorded.path, offset, data)
        content[offset : offset + len(data)] = data
        recorded.mark(name)
        states[name] = bytes(content)
    call("blkdiscard", "--offset", str(BLOCK), "--length", str(2 * BLOCK), recorded.path)
    recorded.mark("not-flushed")
    states["not-flushed"] = bytes(content)
    call("sync", recorded.path)
    recorded.mark("flushed")
    content[BLOCK : 3 * BLOCK] = bytes(2 * BLOCK)
    states["flushed"] = bytes(content)
    recorded.remove()

    entries = write_log.read(log.file)
    assert any(entry.flags & write_log.Flag.DISCARD for entry in entries)
    for name, state in states.items():
        replayed = tmp_path / name
        replayed.write_bytes(bytes(MIB))
        write_log.replay(log.file, write_log.until(entries, name), replayed)
        assert replayed.read_bytes() == state, name
    assert read_direct(disk.device, MIB, MIB) == states["flushed"]


def test_a_file_that_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(bytes(MIB))
    with pytest.raises(ValueError, match="no log of dm-log-writes"):
        write_log.read(tmp_path / "file")


def test_a_flakey_disk_drops_what_is_written(loop_disk: Disks) -> None:
    disk = loop_disk(2 * MIB)
    flakey = Flakey(disk.device)
    write_durably(flakey.path, 0, b"a" * BLOCK)
    flakey.drop_writes()
    write_durably(flakey.path, 0, b"b" * BLOCK)
    assert read_direct(flakey.path, 0, BLOCK) == b"a" * BLOCK
    flakey.heal()
    write_durably(flakey.path, 0, b"c" * BLOCK)
    assert disk.file.read_bytes()[MIB : MIB + BLOCK] == b"c" * BLOCK


def test_a_flakey_disk_fails_what_is_written(loop_disk: Disks) -> None:
    flakey = Flakey(loop_disk(2 * MIB).device)
    write_durably(flakey.path, 0, b"a" * BLOCK)
    flakey.fail_writes()
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_durably(flakey.path, 0, b"b" * BLOCK)
    flakey.heal()
    assert read_direct(flakey.path, 0, BLOCK) == b"a" * BLOCK


def test_a_volume_group_lies_on_a_flakey_disk(loop_disk: Disks) -> None:
    flakey = Flakey(loop_disk(64 * MIB).device)
    call("vgcreate", "sm-test-flakey", flakey.path)
    flakey.fail_writes()
    with pytest.raises(AssertionError, match="status 5"):
        call("lvcreate", "--yes", "--size", "4m", "--name", "volume", "sm-test-flakey")
    flakey.heal()
    call("lvcreate", "--yes", "--size", "4m", "--name", "volume", "sm-test-flakey")
    call("vgremove", "-ff", "--yes", "sm-test-flakey")
