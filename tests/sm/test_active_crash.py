"""Commands on a disk in use, killed at calls that change a name or ask for a change.

The datapath outlives the command, and its guest goes on writing. The next command must find
everything as before the killed one, or as after it.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support import invariants
from tests.support.failing import KILL, calls_of, failing
from tests.support.forked import command
from tests.support.leftovers import end_processes
from tests.support.saved import Saved
from tests.support.site import MIB, Site
from tests.support.tiers import chosen

SIZE = 4 * MIB


class Disk:
    """A disk over a snapshot, in use or not, and what all must read as.

    `again` gives it as it was made, and in use if it was to be `active`.
    """

    def __init__(self, site: Site, image_format: str, active: bool) -> None:
        self.site = site
        self.sr = site.create_sr()
        self.uuid = site.create_vdi(self.sr, image_format, SIZE)
        self.data = bytearray(SIZE)
        self.uri = site.activate(self.uuid)
        self.write(0, MIB, 1)
        self.others = {site.snapshot(self.uuid): bytes(self.data)}
        self.write(MIB // 2, MIB, 2)
        site.deactivate(self.uuid)
        self._active = active
        self._saved = Saved(site)
        self._made = bytes(self.data), dict(self.others)

    def again(self) -> None:
        """Have it as it was, whatever happened since."""
        self._saved.restore()
        self.data, self.others = bytearray(self._made[0]), dict(self._made[1])
        if self._active:
            self.uri = self.site.activate(self.uuid)

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


def killed_disks(
    folder: Path, image_format: str, asking: bool, *words: str, active: bool = True
) -> Iterator[tuple[int, Disk]]:
    """A disk for each call of a command about it, which was killed before that call.

    Of the calls that ask, or of the others, one in four; all in a soak.
    """
    disk = Disk(Site(folder), image_format, active)
    arguments = ("vdi", *words, disk.uuid)
    disk.again()
    found = calls_of(disk.site.environment, arguments, asking=asking)
    # The folder of sockets is not among what is restored: only the first call may make it.
    calls = [call for call in found if "sm/datapath/sockets" not in call.place]
    assert calls
    end_processes(str(folder))
    name = f"{words} killed, {image_format}, {asking}"
    for number, call in enumerate(chosen(calls, 4, name)):
        disk.again()
        prepare = failing(call, KILL, asking=asking)
        outcome = command(disk.site.environment, arguments, prepare)
        assert outcome.killed, f"{call}: {outcome}"
        yield number, disk


def use_again(disk: Disk, number: int) -> None:
    """Half of the disks are put to use again, the others only looked at."""
    if number % 4 < 2:
        disk.uri = disk.site.activate(disk.uuid)
        assert content(disk.uri, SIZE) == disk.data
        disk.write(3 * MIB, 4096, 3)
    disk.check()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("asking", [False, True], ids=["names", "asking"])
def test_a_snapshot_of_a_disk_in_use(asking: bool, cow_format: str, tmp_path: Path) -> None:
    for _, disk in killed_disks(tmp_path, cow_format, asking, "snapshot"):
        before = bytes(disk.data)
        assert content(disk.uri, SIZE) == disk.data
        disk.write(3 * MIB, 4096, 3)
        new = disk.settle() - {disk.uuid, *disk.others}
        assert len(new) <= 1
        disk.others |= dict.fromkeys(new, before)
        disk.write(2 * MIB, 4096, 4)
        assert content(disk.uri, SIZE) == disk.data
        disk.check()


@pytest.mark.one_in(4)
@pytest.mark.parametrize("asking", [False, True], ids=["names", "asking"])
def test_an_activation(asking: bool, cow_format: str, tmp_path: Path) -> None:
    for number, disk in killed_disks(tmp_path, cow_format, asking, "activate", active=False):
        use_again(disk, number)


@pytest.mark.one_in(2)
def test_a_deactivation(cow_format: str, tmp_path: Path) -> None:
    for number, disk in killed_disks(tmp_path, cow_format, False, "deactivate"):
        use_again(disk, number)
