"""Commands that change a disk, what each may leave when it is cut short, and what it must leave."""

from __future__ import annotations

from collections.abc import Callable

from tests.support import guest
from tests.support.every_call import Subject
from tests.support.guest import Model
from tests.support.saved import Saved
from tests.support.site import MIB, Site

SIZE = 4 * MIB


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


Check = Callable[[Site, str, dict[str, bytes], set[str]], dict[str, bytes]]
"""From the disk, the disks before and those that are there now: what these must read as."""


def copied(site: Site, disk: str, before: dict[str, bytes], now: set[str]) -> dict[str, bytes]:
    """At most one new VDI, which reads as the disk."""
    new = now - set(before)
    assert len(new) <= 1
    return {**before, **dict.fromkeys(new, before[disk])}


def created(site: Site, disk: str, before: dict[str, bytes], now: set[str]) -> dict[str, bytes]:
    """At most one new VDI, which is empty."""
    new = now - set(before)
    assert len(new) <= 1
    return {**before, **dict.fromkeys(new, bytes(SIZE))}


def deleted(site: Site, disk: str, before: dict[str, bytes], now: set[str]) -> dict[str, bytes]:
    """The disk is there or not; the others are."""
    return {uuid: data for uuid, data in before.items() if uuid != disk or uuid in now}


def resized(site: Site, disk: str, before: dict[str, bytes], now: set[str]) -> dict[str, bytes]:
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


def subjects(site: Site, image_format: str, save: Callable[[Site], Saved] = Saved) -> list[Subject]:
    """Each command on the same disk."""
    sr, disk, contents = disk_with_history(site, image_format)
    saved, reader = save(site), guest.Reader()

    def subject(name: str) -> Subject:
        arguments, expected = COMMANDS[name]
        return Subject(
            name=name,
            saved=saved,
            sr=sr,
            arguments=("vdi", *arguments(sr, disk, image_format)),
            disks=contents,
            touched=disk,
            expected=lambda now: expected(site, disk, contents, now),
            reader=reader,
            undone=name != "resize",
        )

    return [subject(name) for name in COMMANDS]
