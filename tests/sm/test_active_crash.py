"""Commands on a disk in use, killed at each call that changes a name or asks for a change.

The datapath outlives the command, and its guest goes on writing. The next command must find
everything as before the killed one, or as after it.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support import invariants
from tests.support.killing import killed_at
from tests.support.site import MIB, Site

SIZE = 4 * MIB
NAMES = "link,rename,unlink,symlink,fsync,fdatasync"
ASKING = "sendto,sendmsg"


class Disk:
    """A disk over a snapshot, in use or not, and what all must read as."""

    def __init__(self, site: Site, image_format: str) -> None:
        self.site = site
        self.sr = site.create_sr()
        self.uuid = site.create_vdi(self.sr, image_format, SIZE)
        self.data = bytearray(SIZE)
        self.uri = site.activate(self.uuid)
        self.write(0, MIB, 1)
        self.others = {site.snapshot(self.uuid): bytes(self.data)}
        self.write(MIB // 2, MIB, 2)

    def write(self, offset: int, length: int, byte: int) -> None:
        """The guest writes and flushes."""
        qemu_io(self.uri, f"write -P {byte} {offset} {length}", "flush")
        self.data[offset : offset + length] = bytes([byte]) * length

    def settle(self) -> set[str]:
        """What an administrator does after a crash: nothing but the next command."""
        self.site.sm("sr", "scan", self.sr)
        forest = self.site.repository(self.sr).scan().forest
        return {node.uuid for node in forest if not node.hidden}

    def check(self) -> None:
        """Everything holds once the disk is no longer in use."""
        self.site.deactivate(self.uuid)
        invariants.check(self.site, self.sr, {**self.others, self.uuid: bytes(self.data)})


def numbers(image_format: str, calls: str) -> itertools.count[int]:
    """Every call that asks; of the others every second, the two formats in turn."""
    if calls == ASKING:
        return itertools.count(1)
    return itertools.count(1 if image_format == "qcow2" else 2, 2)


@pytest.mark.parametrize("calls", [NAMES, ASKING])
def test_a_snapshot_of_a_disk_in_use(calls: str, cow_format: str, tmp_path: Path) -> None:
    for number in numbers(cow_format, calls):
        disk = Disk(Site(tmp_path / str(number)), cow_format)
        before = bytes(disk.data)
        killed = killed_at(disk.site, calls, number, "vdi", "snapshot", disk.uuid)
        assert content(disk.uri, SIZE) == disk.data
        disk.write(3 * MIB, 4096, 3)
        new = disk.settle() - {disk.uuid, *disk.others}
        assert len(new) <= 1
        disk.others |= dict.fromkeys(new, before)
        disk.write(2 * MIB, 4096, 4)
        assert content(disk.uri, SIZE) == disk.data
        disk.check()
        if not killed:
            assert number >= 3
            return


@pytest.mark.parametrize("calls", [NAMES, ASKING])
def test_an_activation(calls: str, cow_format: str, tmp_path: Path) -> None:
    for number in numbers(cow_format, calls):
        disk = Disk(Site(tmp_path / str(number)), cow_format)
        disk.site.deactivate(disk.uuid)
        killed = killed_at(disk.site, calls, number, "vdi", "activate", disk.uuid)
        if number % 4 < 2:
            disk.uri = disk.site.activate(disk.uuid)
            assert content(disk.uri, SIZE) == disk.data
            disk.write(3 * MIB, 4096, 3)
        disk.check()
        if not killed:
            return


def test_a_deactivation(cow_format: str, tmp_path: Path) -> None:
    for number in numbers(cow_format, NAMES):
        disk = Disk(Site(tmp_path / str(number)), cow_format)
        killed = killed_at(disk.site, NAMES, number, "vdi", "deactivate", disk.uuid)
        if number % 4 < 2:
            disk.uri = disk.site.activate(disk.uuid)
            assert content(disk.uri, SIZE) == disk.data
            disk.write(3 * MIB, 4096, 3)
        disk.check()
        if not killed:
            return
