"""The largest tables that are legal, and wrong at the very end: what they cost is the danger."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.hostile.case import Hostile, Stage
from tests.hostile.qcow2_headers import BEYOND, CORRUPT, refused
from tests.hostile.qcow2_parts import (
    CLUSTER,
    COPIED,
    DATA,
    L1,
    L2,
    MIB,
    REFCOUNT_BLOCK,
    SPARE,
    extension,
)
from tests.hostile.qcow2_tables import BITMAPS, bitmap, snapshot, words

TABLES, CHECK = Stage.TABLES, Stage.CHECK

ENTRIES = 4 << 20
"""Of an L1 table of 32 MiB, which maps 8 TiB in clusters of 4 KiB."""

LENGTH = 1 << 35
"""Of the file: room for as many tables, all of them holes."""

PLACE = SPARE
BEHIND = PLACE + ENTRIES * 8
LARGEST = {"size": ENTRIES * 2 * MIB, "l1_entries": ENTRIES, "l1_offset": PLACE}
Entries = npt.NDArray[np.uint64]


def large() -> Iterator[Hostile]:
    """All of them."""
    yield from _level_one()
    yield from _many()


@cache
def _holes(shuffled: bool) -> bytes:
    """Entries that name a hole of its own each, but for the last one, which names nothing."""
    tables: Entries = np.arange(ENTRIES, dtype=np.uint64) * np.uint64(CLUSTER) + np.uint64(BEHIND)
    if shuffled:
        np.random.default_rng(3).shuffle(tables)
    tables |= np.uint64(COPIED)
    tables[-1] = 0
    return tables.astype(">u8").tobytes()


@cache
def _same(*tables: int) -> bytes:
    return words(*(table | COPIED for table in tables)) * (ENTRIES // len(tables))


def _level_one() -> Iterator[Hostile]:
    last = PLACE + (ENTRIES - 1) * 8
    twin = int.from_bytes(_holes(True)[:8], "big")
    bad = words(DATA + 512 | COPIED)
    for name, entries, end, says, offset in (
        ("unaligned", _holes(False), L2 + 512 | COPIED, "L1 entry", last),
        ("beyond", _holes(True), LENGTH | COPIED, "L1 entry", last),
        ("twin", _holes(True), twin, "names the L2 table of another entry", last),
        ("table", _holes(False), L2 | COPIED, "L2 entry", L2),
        ("same", _same(L2), L2 | COPIED, "L2 table of another entry", PLACE + 8),
        ("two", _same(L2, DATA), DATA | COPIED, "L2 table of another entry", PLACE + 16),
    ):
        pieces = {PLACE: entries, last: words(end), L2: bad}
        changes: dict[str, Any] = {"fields": LARGEST, "pieces": pieces}
        yield refused(f"l1-largest-{name}", changes, CORRUPT, says, offset, TABLES, LENGTH)
    # Two places so far apart that they cannot be counted one by one.
    pieces = {PLACE: words(LENGTH - CLUSTER | COPIED, L2 | COPIED, L2 | COPIED)}
    changes = {"fields": {**LARGEST, "size": 6 * MIB}, "pieces": pieces}
    says = "L2 table of another entry"
    yield refused("l1-twin-apart", changes, CORRUPT, says, PLACE + 16, TABLES, LENGTH)


def _many() -> Iterator[Hostile]:
    """As many records as there may be, of which the last is wrong."""
    count = 65536
    entries = snapshot(L1, 1) * (count - 1) + snapshot(BEYOND, 1)
    step = len(entries) // count
    fields = {"snapshot_count": count, "snapshot_offset": SPARE}
    changes: dict[str, Any] = {"fields": fields, "pieces": {SPARE: entries}}
    says, offset = "snapshot L1 offset", SPARE + (count - 1) * step
    yield refused("snapshots-last", changes, CORRUPT, says, offset, CHECK, SPARE + 4 * MIB)
    count = 65535
    entries = bitmap(0, 0) * (count - 1) + bitmap(BEYOND, 1)
    directory = struct.pack(">IIQQ", count, 0, len(entries), SPARE)
    changes = {
        "fields": {"autoclear": 1},
        "extensions": extension(BITMAPS, directory),
        "pieces": {SPARE: entries},
    }
    says, offset = "bitmap table offset", SPARE + (count - 1) * 32
    yield refused("bitmaps-last", changes, CORRUPT, says, offset, CHECK, SPARE + 4 * MIB)
    # A directory and a table of the largest size, with nothing in them.
    directory = struct.pack(">IIQQ", 1, 0, 64 * MIB, SPARE)
    changes = {
        "fields": {"autoclear": 1},
        "extensions": extension(BITMAPS, directory),
        "pieces": {SPARE: bitmap(SPARE + 64 * MIB, 16 << 20)},
    }
    says, length = "refcount too low", SPARE + 200 * MIB
    yield refused("bitmap-largest", changes, CORRUPT, says, None, CHECK, length)
    blocks = words(REFCOUNT_BLOCK) * (1 << 20)
    fields = {"refcount_offset": SPARE, "refcount_clusters": 2048}
    changes = {"fields": fields, "pieces": {SPARE: blocks}}
    says = f"byte {REFCOUNT_BLOCK} is also used"
    yield refused("refcount-table-largest", changes, CORRUPT, says, None, CHECK, SPARE + 8 * MIB)
