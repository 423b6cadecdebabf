"""What dm-log-writes has recorded: read, and done again up to any point.

The layout is the kernel's (Documentation/admin-guide/device-mapper/log-writes.rst and
drivers/md/dm-log-writes.c), all numbers little-endian. Sector 0: magic, version and number of
entries, of eight bytes each, and the sector size, of four. Then for each entry one sector: the
first sector written, how many, flags, and the length of what follows in the same sector (the name
of a mark), of eight bytes each; then, unless it is a discard, the sectors that were written.

A write or discard is in the log once a flush that came after it is complete, or at once with FUA:
so each prefix of the log is a state that a loss of power can leave.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntFlag
from pathlib import Path

MAGIC = 0x6A736677736872
VERSION = 1
_HEAD = struct.Struct("<QQQI")
_ENTRY = struct.Struct("<QQQQ")


class Flag(IntFlag):
    """What an entry is."""

    FLUSH = 1
    FUA = 2
    DISCARD = 4
    MARK = 8
    METADATA = 16


@dataclass(frozen=True)
class Entry:
    """One entry; offsets and length in bytes, `data_at` in the log, `mark` is "" for a write."""

    offset: int
    length: int
    flags: Flag
    data_at: int
    mark: str


def read(log: Path) -> list[Entry]:
    """All entries that the log says it has; raises ValueError when it is no log.

    The number is brought up to date by a mark, by FUA writes, and when the device is removed.
    """
    with log.open("rb") as file:
        magic, version, count, sector = _HEAD.unpack(file.read(_HEAD.size))
        if (magic, version) != (MAGIC, VERSION):
            raise ValueError(f"{log} has no log of dm-log-writes: magic {magic:#x}, {version}")
        entries = []
        at = sector
        for _ in range(count):
            file.seek(at)
            first, sectors, flags, more = _ENTRY.unpack(file.read(_ENTRY.size))
            mark = file.read(more).rstrip(b"\0").decode() if flags & Flag.MARK else ""
            entry = Entry(first * sector, sectors * sector, Flag(flags), at + sector, mark)
            entries.append(entry)
            at = entry.data_at + (0 if entry.flags & Flag.DISCARD else entry.length)
    return entries


def until(entries: Sequence[Entry], mark: str) -> Sequence[Entry]:
    """What comes before a mark; raises ValueError when there is none of that name."""
    names = [entry.mark for entry in entries]
    return entries[: names.index(mark)]


def replay(log: Path, entries: Sequence[Entry], onto: Path) -> None:
    """Write these entries of the log onto a disk or file of full size; discards as zeroes."""
    source = os.open(log, os.O_RDONLY)
    target = os.open(onto, os.O_WRONLY)
    try:
        for entry in entries:
            if entry.flags & Flag.DISCARD:
                data = bytes(entry.length)
            else:
                data = os.pread(source, entry.length, entry.data_at)
            os.pwrite(target, data, entry.offset)
    finally:
        os.close(source)
        os.close(target)
