"""Copying what some images of a chain hold into another one, each byte once, whatever the format.

The work goes through the disk in windows. In each, the maps of the images say who owns what; a
piece is put together in memory and written at once.

Now and then what was copied is made durable. Then the caller learns how far the work is, so that it
can go on from there another day, and the space of what was copied can be given back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from sm.cowutil.base import Progress, Steps
from sm.cowutil.errors import ImageError
from sm.cowutil.extents import ExtentMap, Extents, Int64s, Kind

PIECE = 2 << 20
"""What is assembled and written at once: one block of almost every VHD."""

WINDOW = 128 * PIECE
"""What is resolved at once; at one extent for every second sector tens of MiB."""


class Source(Protocol):
    """An image whose guest data is copied, or which covers others."""

    virtual_size: int

    def map_window(self, start: int, end: int) -> ExtentMap:
        """What it holds between two guest bytes; more around it does no harm."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """As `Layer.read_into`."""


class Target(Protocol):
    """Where the data goes."""

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """Write guest bytes: all of `data`, or its (start, end) ranges `held`, shape (n, 2).

        What lies between the ranges is zero in `data`, and stays as it is in the target.
        """

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make guest bytes read as zero, whatever is below."""

    def commit(self) -> None:
        """Make everything written durable."""


@dataclass(frozen=True, slots=True)
class Work:
    """What is to be copied: of `sources` (uppermost first) all but the first `covered`.

    `path`: of the target, for messages. `size`: of the disk, in bytes. `total`: an upper bound of
    what is copied, for progress. `release` gives back what the sources hold between two guest
    bytes. Before that, what the target holds there is read afresh by `proof`: it must be all of it.
    `windows`: where those windows begin that any source holds something of, ascending; None where
    that is not known.
    """

    path: Path
    sources: Sequence[Source]
    target: Target
    size: int
    total: int
    proof: Callable[[int, int], Extents]
    release: Callable[[int, int], None]
    covered: int = 0
    windows: Sequence[int] | None = None


def copy(work: Work, progress: Progress, steps: Steps) -> int:
    """Carry it out from guest byte `steps.begin` on; returns the guest bytes copied."""
    copied, unsafe = 0, 0
    released = steps.begin
    buffer = memoryview(bytearray(PIECE))
    progress(0, work.total)
    windows = range(0, work.size, WINDOW) if work.windows is None else work.windows
    for start in windows:
        if start + WINDOW <= steps.begin:
            continue
        table = _resolve(work, max(start, steps.begin), min(work.size, start + WINDOW))
        for piece, rows in _pieces(table):
            if unsafe >= steps.length:
                released, unsafe = _step(work, steps, released, piece), 0
            done = _copy_piece(work, buffer, rows)
            copied += done
            unsafe += done
            progress(min(copied, work.total), work.total)
    _step(work, steps, released, work.size)
    progress(work.total, work.total)
    return copied


def _step(work: Work, steps: Steps, released: int, reached: int) -> int:
    """Make all in front of guest byte `reached` durable, say so, and give its space back."""
    work.target.commit()
    steps.reached(reached)
    if steps.give_back:
        _prove(work, released, reached)
        with steps.giving():
            work.release(released, reached)
    return reached


def _prove(work: Work, start: int, end: int) -> None:
    """See from its tables that the target holds all that is about to be let go of."""
    held = Extents.any_of(
        source.map_window(start, min(end, source.virtual_size)).extents() for source in work.sources
    )
    missing = held.clip(start, end).minus(work.proof(start, end))
    if len(missing):
        raise ImageError(
            work.path, f"lacks {missing.total} bytes that were copied; nothing was given back"
        )


def _resolve(work: Work, start: int, end: int) -> Int64s:
    """Who owns what of a window: rows as of `owners`, cut at every `PIECE`."""
    maps = [source.map_window(start, min(end, source.virtual_size)) for source in work.sources]
    table = owners(
        [found.extents(Kind.DATA, Kind.COMPRESSED).clip(start, end) for found in maps],
        [found.extents(Kind.ZERO).clip(start, end) for found in maps],
    )
    return _cut(table[table[:, 2] >= work.covered])


def owners(data: Sequence[Extents], zero: Sequence[Extents]) -> Int64s:
    """Who owns what: rows of (start, end, index, is zero), int64, sorted and disjoint.

    What each image holds as data and as zeroes, uppermost first; the first that holds a byte owns
    it.
    """
    taken = Extents.of(())
    rows = []
    for index, pair in enumerate(zip(data, zero, strict=True)):
        for is_zero, extents in enumerate(pair):
            own = extents.minus(taken)
            about = np.broadcast_to(np.array([index, is_zero], dtype=np.int64), (len(own), 2))
            rows.append(np.column_stack((own.starts, own.ends, about)))
        taken = taken.union(pair[0]).union(pair[1])
    table = np.concatenate(rows)
    ordered: Int64s = table[np.argsort(table[:, 0], kind="stable")]
    return ordered


def _cut(table: Int64s) -> Int64s:
    """Split rows so that none crosses a multiple of `PIECE`."""
    first, last = table[:, 0] // PIECE, (table[:, 1] - 1) // PIECE
    count = last - first + 1
    result = np.repeat(table, count, axis=0)
    within = np.arange(len(result)) - np.repeat(np.cumsum(count) - count, count)
    piece = np.repeat(first, count) + within
    result[:, 0] = np.maximum(result[:, 0], piece * PIECE)
    result[:, 1] = np.minimum(result[:, 1], (piece + 1) * PIECE)
    return result


def _pieces(table: Int64s) -> Iterator[tuple[int, Int64s]]:
    """The rows of each `PIECE` that has any, with the guest byte where it begins."""
    number = table[:, 0] // PIECE
    for rows in np.split(table, np.flatnonzero(np.diff(number)) + 1):
        if len(rows):
            yield int(rows[0, 0]) // PIECE * PIECE, rows


def _copy_piece(work: Work, buffer: memoryview, rows: Int64s) -> int:
    """Read one piece from its owners and write it; the bytes between stay zero."""
    for start, end, _, _ in rows[rows[:, 3] == 1].tolist():
        work.target.write_zeroes(start, end - start)
    filled = rows[rows[:, 3] == 0]
    if len(filled):
        low, high = int(filled[0, 0]), int(filled[-1, 1])
        data = buffer[: high - low]
        if (filled[1:, 0] > filled[:-1, 1]).any():
            data[:] = bytes(len(data))
        for start, end, owner, _ in filled.tolist():
            work.sources[owner].read_into(start, data[start - low : end - low])
        held = Extents.from_ranges(filled[:, 0] - low, filled[:, 1] - low)
        work.target.write(low, data, np.stack((held.starts, held.ends), axis=1))
    return int((rows[:, 1] - rows[:, 0]).sum())
