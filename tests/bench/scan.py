"""What a QCOW2 image holds, on 2 TiB, against the limits of reading its tables."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from sm.cowutil.extents import Extents
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.usage import read_usage
from tests.bench.limit import Loop, compiled, pieces, read_pieces, table_offsets
from tests.bench.measure import Row, Target, Work, in_turn
from tests.bench.workshop import CLUSTER_BITS, Workshop

EXTENTS = {"full": 2.0, "half": 5.0}
READING = "pread of the L2 tables"
LOOP = "compiled loop"


def size(path: Path) -> int:
    """Allocated bytes."""
    with Qcow2Layer(path) as layer:
        return layer.held_size()


def bitmap(path: Path) -> object:
    """One bit for each cluster."""
    with Qcow2Layer(path) as layer:
        return layer.bitmap()


def extents(path: Path) -> Extents:
    """Allocated ranges."""
    with Qcow2Layer(path) as layer:
        return layer.held()


def run(workshop: Workshop) -> list[Row]:
    """Size, bitmap and extents of four patterns, and physical size from the refcounts."""
    loop = compiled(workshop.folder)
    rows = []
    for pattern in ("full", "shuffled", "second", "half"):
        rows += _one(pattern, workshop.image(pattern), loop)
    return rows


def _one(pattern: str, path: Path, loop: Loop | None) -> list[Row]:
    reads, tables = pieces(path), len(table_offsets(path))
    works: dict[str, Work] = {
        "read": partial(read_pieces, path, reads),
        "size": partial(size, path),
        "bitmap": partial(bitmap, path),
        "extents": partial(extents, path),
        "usage": partial(read_usage, path),
    }
    if loop is not None:
        if loop(path, reads, tables) << CLUSTER_BITS != size(path):
            raise AssertionError(f"the loop and the scan differ on {path}")
        works["loop"] = partial(loop, path, reads, tables)
    taken = in_turn(works, repeat=7)

    def row(what: str, against: str, key: str, target: Target | None) -> Row:
        name = {"usage": "physical size"}.get(what, what)
        theirs = taken.get(key)
        return Row("scan", f"{name}, {pattern} 2 TiB", taken[what], against, theirs, target)

    full = pattern == "full"
    rows = []
    for what in ("size", "bitmap"):
        rows.append(row(what, READING, "read", Target.within(1.5) if full else None))
        rows.append(row(what, LOOP, "loop", Target.within(1.3) if full else None))
    factor = EXTENTS.get(pattern)
    rows.append(row("extents", READING, "read", Target.within(factor) if factor else None))
    rows.append(row("usage", "full scan", "size", Target.faster(4) if full else None))
    return rows
