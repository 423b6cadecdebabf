"""Hostile QCOW2 tables: entries that cannot be, overlaps, bombs, and files that end too early."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import Any

from tests.hostile.case import Hostile, Stage
from tests.hostile.qcow2_headers import BEYOND, CORRUPT, STRANGE, refused
from tests.hostile.qcow2_parts import (
    CLUSTER,
    COMPRESSED,
    COPIED,
    DATA,
    L1,
    L2,
    MIB,
    REFCOUNT_BLOCK,
    REFCOUNT_TABLE,
    SOUND_PARTS,
    SPARE,
    Parts,
    deflated,
    extension,
)

TABLES, READ, CHECK = Stage.TABLES, Stage.DATA, Stage.CHECK
BITMAPS = 0x23852875
STREAM = DATA + 2 * CLUSTER
EXTENDED = Parts(fields={"incompatible": 1 << 4, "cluster_bits": 14})


def words(*values: int) -> bytes:
    """Big-endian words of eight bytes."""
    return struct.pack(f">{len(values)}Q", *values)


def tables() -> Iterator[Hostile]:
    """All of them."""
    yield from _level_one()
    yield from _level_two()
    yield from _extended()
    yield from _compressed()
    yield from _refcounts()
    yield from _snapshots()
    yield from _bitmaps()
    yield from _truncations()


def _level_one() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, entry in {
        "unaligned": L2 + 512 | COPIED,
        "beyond": BEYOND | COPIED,
        "far-beyond": 0x00FFFFFFFFFFF000 | COPIED,
    }.items():
        changes = {"pieces": {L1: words(entry)}}
        yield refused(f"l1-{name}", changes, CORRUPT, "L1 entry", L1, TABLES)
    changes = {
        "fields": {"size": 4 * MIB, "l1_entries": 2},
        "pieces": {L1: words(L2 | COPIED, L2 | COPIED)},
    }
    says = "L2 table of another entry"
    yield refused("l1-same-table-twice", changes, CORRUPT, says, L1 + 8, TABLES)
    shared = {"size": 128 << 30, "l1_entries": 65536}
    changes = {"fields": shared, "pieces": {L1: words(*([L2 | COPIED] * 65536))}}
    yield refused("l1-all-the-same", changes, CORRUPT, says, L1 + 8, TABLES, L1 + 65536 * 8)
    changes = {"fields": {"l1_offset": DATA}}
    yield refused("l1-on-data", changes, CORRUPT, "L1 entry", DATA, TABLES)
    changes = {"pieces": {L1: words(L1 | COPIED)}}
    yield refused("l1-names-itself", changes, CORRUPT, "refcount too low", None, CHECK)
    changes = {"pieces": {L1: words(L2 | COPIED | 1 << 60)}}
    yield refused("l1-reserved-bits", changes, CORRUPT, f"byte {L1}", None, CHECK)


def _level_two() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, entry in {
        "unaligned": DATA + 512 | COPIED,
        "beyond": BEYOND | COPIED,
        "far-beyond": 0x00FFFFFFFFFFF000 | COPIED,
        "zero-beyond": BEYOND | COPIED | 1,
    }.items():
        for index in (0, 5):
            changes = {"table": {index: entry}}
            place = L2 + 8 * index
            yield refused(f"l2-{name}-{index}", changes, CORRUPT, "L2 entry", place, TABLES)
    changes = {"fields": {"version": 2}}
    yield refused("l2-zero-in-v2", changes, CORRUPT, "L2 entry", L2 + 16, TABLES)
    for name, entry in {
        "header": 0,
        "refcount-table": REFCOUNT_TABLE,
        "refcount-block": REFCOUNT_BLOCK,
        "l1": L1,
        "l2": L2,
        "data": DATA,
    }.items():
        if entry:
            changes = {"table": {5: entry | COPIED}}
            yield refused(f"l2-overlaps-{name}", changes, CORRUPT, "refcount too low", None, CHECK)
    changes = {"table": {0: DATA | COPIED | 1 << 58}}
    yield refused("l2-reserved-bits", changes, CORRUPT, f"byte {L2}", None, CHECK)
    changes = {"table": {0: DATA}}
    yield refused("l2-not-copied", changes, CORRUPT, f"byte {L2}", None, CHECK)


def _extended() -> Iterator[Hostile]:
    """Clusters of 16 KiB with 32 subclusters; the parts lie four times as far apart."""
    size = 4 * CLUSTER
    places = {
        "size": MIB,
        "l1_offset": 3 * size,
        "refcount_offset": size,
    }
    base = EXTENDED.but(fields={**EXTENDED.fields, **places})
    full = 0xFFFFFFFF
    for name, entry, bits in (
        ("both", 5 * size | COPIED, 1 << 32 | 1),
        ("homeless", 0, 1),
        ("compressed", COMPRESSED | 5 * size, full),
    ):
        pieces = {
            REFCOUNT_TABLE: b"", REFCOUNT_BLOCK: b"", L1: b"", DATA: b"", DATA + CLUSTER: b"",
            STREAM: b"", size: words(2 * size), 2 * size: struct.pack(">6H", *[1] * 6),
            3 * size: words(4 * size | COPIED), 4 * size: words(entry, bits),
        }  # fmt: skip
        yield refused(
            f"subclusters-{name}", {"pieces": pieces}, CORRUPT, "L2 entry", 4 * size, TABLES,
            6 * size, base,
        )  # fmt: skip


def _compressed() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, entry in {
        "at-zero": COMPRESSED,
        "beyond": COMPRESSED | BEYOND,
        "far-beyond": COMPRESSED | (1 << 58) - 1,
    }.items():
        changes = {"table": {3: entry}}
        yield refused(f"compressed-{name}", changes, CORRUPT, "L2 entry", L2 + 24, TABLES)
    whole = deflated(b"deflate " * 512)
    broken = {
        "short": deflated(b"x" * 100),
        "cut": whole[:10],
        "rubbish": b"\xff" * 512,
        "nothing": bytes(512),
    }
    for name, stream in broken.items():
        changes = {"stream": stream.ljust(512, b"\0"), "pieces": {}}
        says = "compressed cluster"
        yield refused(f"deflate-{name}", changes, CORRUPT, says, STREAM, READ)
    changes = {"table": {3: SOUND_PARTS_ENTRY | COPIED}}
    yield refused("compressed-copied", changes, CORRUPT, f"byte {L2 + 24}", None, CHECK)


SOUND_PARTS_ENTRY = COMPRESSED | STREAM


def _refcounts() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, entry in {"beyond": BEYOND, "unaligned": REFCOUNT_BLOCK + 8, "reserved": 1}.items():
        changes = {"pieces": {REFCOUNT_TABLE: words(entry)}}
        says = f"byte {REFCOUNT_TABLE}"
        yield refused(f"refcount-table-{name}", changes, CORRUPT, says, None, CHECK)
    changes = {"pieces": {REFCOUNT_TABLE: words(REFCOUNT_TABLE)}}
    says = f"byte {REFCOUNT_TABLE} is also used"
    yield refused("refcount-block-is-table", changes, CORRUPT, says, None, CHECK)
    changes = {"pieces": {REFCOUNT_TABLE: words(REFCOUNT_BLOCK, REFCOUNT_BLOCK)}}
    says = f"byte {REFCOUNT_BLOCK} is also used"
    yield refused("refcount-block-twice", changes, CORRUPT, says, None, CHECK)
    changes = {"pieces": {REFCOUNT_TABLE: bytes(8)}}
    yield refused("refcount-block-none", changes, CORRUPT, "refcount too low", None, CHECK)
    for cluster in (0, 3, 5):
        changes = {"refcounts": {cluster: 0}}
        says = f"host clusters {cluster} to {cluster}: refcount too low"
        yield refused(f"refcount-zero-{cluster}", changes, CORRUPT, says, None, CHECK)
    changes = {"fields": {"refcount_offset": DATA}}
    says = f"byte {DATA}: not a cluster"
    yield refused("refcount-table-on-data", changes, CORRUPT, says, None, CHECK)


def snapshot(l1: int, entries: int, extra: int = 16, name: bytes = b"") -> bytes:
    """One entry of the snapshot table."""
    fixed = struct.pack(">QIHHIIQII", l1, entries, 0, len(name), 0, 0, 0, 0, extra)
    return fixed + words(0, MIB) + name


def _snapshots() -> Iterator[Hostile]:
    changes: dict[str, Any]
    for name, entry, says, offset in (
        ("extra", snapshot(L1, 1, extra=1025), "snapshot extra data", SPARE + 36),
        ("extra-huge", snapshot(L1, 1, extra=0xFFFFFFFF), "snapshot extra data", SPARE + 36),
        ("l1-size", snapshot(L1, (4 << 20) + 1), "snapshot L1 size", SPARE + 8),
        ("l1-unaligned", snapshot(L1 + 8, 1), "snapshot L1 offset", SPARE),
        ("l1-beyond", snapshot(BEYOND, 1), "snapshot L1 offset", SPARE),
        ("l1-beyond-64", snapshot(2**64 - CLUSTER, 1), "snapshot L1 offset", SPARE),
    ):
        changes = {
            "fields": {"snapshot_count": 1, "snapshot_offset": SPARE},
            "clusters": 9,
            "pieces": {SPARE: entry},
        }
        yield refused(f"snapshot-{name}", changes, CORRUPT, says, offset, CHECK)
    changes = {
        "fields": {"snapshot_count": 65536, "snapshot_offset": SPARE},
        "clusters": 9,
        "pieces": {SPARE: snapshot(L1, 1)},
    }
    yield refused("snapshot-table-cut", changes, CORRUPT, "snapshot table offset", 64)
    whole = {"snapshot_count": 65536, "snapshot_offset": SPARE}
    entries = struct.pack(">QIHHIIQII", L1, 1, 0xFFFF, 0xFFFF, 0, 0, 0, 0, 0)
    step = -(-(len(entries) + 2 * 0xFFFF) // 8) * 8
    pieces = {SPARE + index * step: entries for index in range(520)}
    changes = {"fields": whole, "pieces": pieces}
    yield refused("snapshot-names", changes, CORRUPT, "snapshot table", SPARE, CHECK, 128 * MIB)
    large = b"".join(
        struct.pack(">QIHHIIQII", index * CLUSTER, 4 << 20, 0, 0, 0, 0, 0, 0, 0)
        for index in range(65536)
    )
    changes = {"fields": whole, "pieces": {SPARE: large}}
    says = "snapshot L1 tables"
    yield refused("snapshot-l1-flood", changes, CORRUPT, says, None, CHECK, 512 * MIB)


def bitmap(table: int, entries: int, bits: int = 16, name: int = 1, extra: int = 0) -> bytes:
    """One entry of the bitmap directory."""
    entry = struct.pack(">QIIBBHI", table, entries, 0, 1, bits, name, extra) + b"b"
    return entry.ljust(32, b"\0")


def _bitmaps() -> Iterator[Hostile]:
    changes: dict[str, Any]
    good = (1, 0, 32, SPARE)
    for name, fields, entry, says, offset in (
        ("count-0", (0, 0, 32, SPARE), b"", "bitmaps extension", 112),
        ("count-65536", (65536, 0, 32, SPARE), b"", "bitmaps extension", 112),
        ("directory-0", (1, 0, 0, SPARE), b"", "bitmaps extension", 112),
        ("directory-huge", (1, 0, 1 << 40, SPARE), b"", "bitmaps extension", 112),
        ("unaligned", (1, 0, 32, SPARE + 8), b"", "bitmap directory offset", 128),
        ("beyond", (1, 0, 32, BEYOND), b"", "bitmap directory", None),
        ("cut", (2, 0, 32, SPARE), bitmap(0, 0), "bitmap directory", SPARE + 32),
        ("name", good, bitmap(0, 0, name=1024), "bitmap directory entry", SPARE),
        ("extra", good, bitmap(0, 0, extra=0xFFFFFFFF), "bitmap directory entry", SPARE),
        ("granularity", good, bitmap(0, 0, bits=32), "bitmap directory entry", SPARE),
        ("entries", good, bitmap(DATA, (16 << 20) + 1), "bitmap directory entry", SPARE),
        ("table-unaligned", good, bitmap(DATA + 8, 1), "bitmap table offset", SPARE),
        ("table-beyond", good, bitmap(BEYOND, 1), "bitmap table offset", SPARE),
    ):
        changes = {
            "fields": {"autoclear": 1},
            "extensions": extension(BITMAPS, struct.pack(">IIQQ", *fields)),
            "clusters": 9,
            "pieces": {SPARE: entry},
        }
        yield refused(f"bitmap-{name}", changes, CORRUPT, says, offset, CHECK)
    changes = {
        "fields": {"autoclear": 1},
        "extensions": extension(BITMAPS, b"short"),
    }
    yield refused("bitmap-extension-short", changes, CORRUPT, "bitmaps extension", 112, CHECK)


def _truncations() -> Iterator[Hostile]:
    for length in (0, 1, 3):
        yield refused(f"cut-{length}", {}, STRANGE, "magic", None, length=length)
    for length in (4, 8, 71, 72, 103):
        yield refused(f"cut-{length}", {}, CORRUPT, "header", 0, length=length)
    for length in (104, CLUSTER, CLUSTER + 8, 2 * CLUSTER, 3 * CLUSTER, L1 + 7):
        says = "L1 table offset"
        yield refused(f"cut-{length}", {}, CORRUPT, says, 40, length=length)
    yield refused("cut-l1", {}, CORRUPT, "L1 entry", L1, TABLES, length=L1 + 8)
    yield refused("cut-before-l2", {}, CORRUPT, "L1 entry", L1, TABLES, length=L2)
    yield refused("cut-data", {}, CORRUPT, "L2 entry", L2, TABLES, length=DATA)
    # Entries 0 and 1 are one run, and a run is named by its first entry.
    yield refused("cut-data-2", {}, CORRUPT, "L2 entry", None, TABLES, length=DATA + CLUSTER)
    yield refused("cut-stream", {}, CORRUPT, "L2 entry", L2 + 24, TABLES, length=STREAM)
    yield refused("cut-in-stream", {}, CORRUPT, "compressed", STREAM, READ, length=STREAM + 8)
    assert SOUND_PARTS.length == SPARE
