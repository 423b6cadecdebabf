"""A command killed at each system call that changes a name or makes a change last.

Afterwards the next command must find an SR whose old disks read as before, with the command's
change there as a whole or not at all.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import guest, invariants
from tests.support.guest import Model
from tests.support.killing import killed_at
from tests.support.site import MIB, Site

SIZE = 4 * MIB
CALLS = "link,linkat,rename,renameat,renameat2,unlink,unlinkat,ftruncate,fsync,fdatasync"


def disk_with_history(site: Site, image_format: str) -> tuple[str, str, dict[str, bytes]]:
    """An SR with a disk over a snapshotted base; returns SR, disk, and what each VDI reads as."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, image_format, SIZE)
    model = Model(SIZE)
    model.write(site.chain(sr, disk), 0, MIB, 1)
    snapshot = site.snapshot(disk)
    contents = {snapshot: bytes(model.data)}
    model.write(site.chain(sr, disk), MIB // 2, MIB, 2)
    contents[disk] = bytes(model.data)
    return sr, disk, contents


def settle(site: Site, sr: str) -> set[str]:
    """What an administrator does after a crash: nothing but the next command."""
    site.sm("sr", "scan", sr)
    forest = site.repository(sr).scan().forest
    return {node.uuid for node in forest if not node.hidden}


Check = Callable[[Site, str, str, dict[str, bytes], set[str]], dict[str, bytes]]


def copied(
    site: Site, sr: str, disk: str, before: dict[str, bytes], now: set[str]
) -> dict[str, bytes]:
    """At most one new VDI, which reads as the disk."""
    new = now - set(before)
    assert len(new) <= 1
    return {**before, **dict.fromkeys(new, before[disk])}


def created(
    site: Site, sr: str, disk: str, before: dict[str, bytes], now: set[str]
) -> dict[str, bytes]:
    """At most one new VDI, which is empty."""
    new = now - set(before)
    assert len(new) <= 1
    return {**before, **dict.fromkeys(new, bytes(SIZE))}


def deleted(
    site: Site, sr: str, disk: str, before: dict[str, bytes], now: set[str]
) -> dict[str, bytes]:
    """The disk is there or not; the others are."""
    return {uuid: data for uuid, data in before.items() if uuid != disk or uuid in now}


def resized(
    site: Site, sr: str, disk: str, before: dict[str, bytes], now: set[str]
) -> dict[str, bytes]:
    """The disk has the old or the new size; what was added reads as zero."""
    size = site.sm("vdi", "show", disk)["virtual_size"]
    assert size in (SIZE, 2 * SIZE)
    return {**before, disk: before[disk].ljust(size, b"\0")}


COMMANDS: dict[str, tuple[Callable[[str, str, str], list[str]], Check]] = {
    "create": (
        lambda sr, disk, image_format: [
            *("create", "--sr", sr, "--size", str(SIZE), "--format", image_format)
        ],
        created,
    ),
    "snapshot": (lambda sr, disk, image_format: ["snapshot", disk], copied),
    "clone": (lambda sr, disk, image_format: ["clone", disk], copied),
    "resize": (lambda sr, disk, image_format: ["resize", disk, "--size", str(2 * SIZE)], resized),
    "delete": (lambda sr, disk, image_format: ["delete", disk], deleted),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_killed_command(name: str, cow_format: str, tmp_path: Path) -> None:
    arguments, expected = COMMANDS[name]
    site = Site(tmp_path)
    for number in itertools.count(1):
        site = Site(tmp_path / str(number))
        sr, disk, contents = disk_with_history(site, cow_format)
        killed = killed_at(site, CALLS, number, "vdi", *arguments(sr, disk, cow_format))
        for uuid, data in contents.items():
            if name != "delete" or uuid != disk:
                seen = guest.content(site.chain(sr, uuid))
                assert seen[: len(data)] == data, f"{uuid} right after the kill"
        now = settle(site, sr)
        invariants.check(site, sr, expected(site, sr, disk, contents, now))
        if not killed:
            assert number >= 2
            return
