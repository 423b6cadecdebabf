"""Merge several images into one below them, each sector once, from the uppermost that holds it.

The work goes through the disk in windows. In each, the maps of the merged images say who owns what;
a block of the target is put together in memory and written in one piece where it is new.

The target is only added to, and everything added is hidden behind the images that are merged, so
stopping anywhere leaves the disk above as it was.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from typing import Protocol

import numpy as np

from sm.cowutil.base import ImageRef, Progress
from sm.cowutil.errors import ImageCorrupt, ImageUnsupported, SizeOutOfRange
from sm.cowutil.extents import Extents, Int64s
from sm.cowutil.vhd.block_file import Access, BlockFile, Opener
from sm.cowutil.vhd.footer import Kind
from sm.cowutil.vhd.growth import grow
from sm.cowutil.vhd.header import NO_PARENT_ID
from sm.cowutil.vhd.headers import load_headers
from sm.cowutil.vhd.layer import VhdLayer
from sm.cowutil.vhd.writer import ImageWriter

PIECE = 2 << 20
"""What is assembled and written at once: one block of almost every image."""

WINDOW = 128 * PIECE
"""What is resolved at once; at one extent for every second sector tens of MiB."""


class Target(Protocol):
    """Where merged data goes."""

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """As `ImageWriter.write`."""

    def commit(self) -> None:
        """Make everything written durable."""


class RawTarget:
    """A raw disk, or the data area of a fixed one."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """Write the held parts of `data`; what lies between stays as it is."""
        pieces = [(0, len(data))] if held is None else held.tolist()
        for start, end in pieces:
            self._file.write(offset + start, data[start:end])

    def commit(self) -> None:
        """Make everything written durable."""
        self._file.flush()


def merge(chain: Sequence[ImageRef], into: int, progress: Progress, open_file: Opener) -> int:
    """As `CowUtil.coalesce`; returns the guest bytes copied."""
    if not 0 < into < len(chain):
        raise ValueError(
            f"a chain of {len(chain)} has nothing above member {into} to merge into it"
        )
    for ref in chain[:into]:
        if ref.format != "vhd":
            raise ImageUnsupported(ref.path, f"{ref.format} above another image", "use VHD")
    with ExitStack() as stack:
        layers = [_layer(stack, ref, open_file) for ref in chain[:into]]
        size = layers[0].virtual_size
        deeper = [_virtual_size(ref, open_file) for ref in chain[into + 1 :]]
        file = open_file(chain[into].path, Access.WRITE)
        stack.callback(file.close)
        _check_sizes(chain, [layer.virtual_size for layer in layers])
        _check_links(chain, layers, file)
        target = _target(file, chain[into], size, max(deeper, default=0))
        total = sum(_upper_bound(layer) for layer in layers)
        copied = _copy(layers, target, size, total, progress)
        target.commit()
    return copied


def _layer(stack: ExitStack, ref: ImageRef, open_file: Opener) -> VhdLayer:
    layer = stack.enter_context(VhdLayer(open_file(ref.path, Access.READ)))
    if layer.headers.footer.kind is not Kind.DIFFERENCING:
        raise ImageUnsupported(ref.path, "no parent", "only a differencing image can be merged")
    return layer


def _virtual_size(ref: ImageRef, open_file: Opener) -> int:
    file = open_file(ref.path, Access.READ)
    try:
        return file.size() if ref.format == "raw" else load_headers(file).footer.current_size
    finally:
        file.close()


def _check_sizes(chain: Sequence[ImageRef], sizes: Sequence[int]) -> None:
    """Refuse a merged image below a smaller one: its tail is invisible, and would be merged."""
    for ref, above, below in zip(chain[1:], sizes, sizes[1:], strict=False):
        if below > above:
            raise ImageUnsupported(ref.path, "a size above its child's", "resize the child first")


def _check_links(chain: Sequence[ImageRef], layers: Sequence[VhdLayer], target: BlockFile) -> None:
    """Refuse to merge into an image that is not the parent, however the chain was put together."""
    ids = [layer.headers.footer.unique_id for layer in layers[1:]]
    raw = chain[len(layers)].format == "raw"
    ids.append(NO_PARENT_ID if raw else load_headers(target).footer.unique_id)
    for layer, expected in zip(layers, ids, strict=True):
        if layer.headers.header.parent_id != expected:
            at = layer.headers.footer.data_offset + 40
            problem = "another image than the next of the chain"
            raise ImageCorrupt(layer.headers.path, "header parent unique id", at, problem)


def _target(file: BlockFile, ref: ImageRef, size: int, deeper: int) -> Target:
    """Open the target for writing and grow it to `size`, if smaller.

    `deeper`: the largest image below the target; growing must not uncover any of it.
    """
    if ref.format == "raw":
        present = file.size()
        if present < size:
            if not file.resizable:
                raise SizeOutOfRange(file.path, size, 0, present)
            file.truncate(size)
        return RawTarget(file)
    if ref.format != "vhd":
        raise ImageUnsupported(ref.path, f"{ref.format} below a VHD", "use VHD or raw")
    headers = load_headers(file)
    present = headers.footer.current_size
    if headers.sparse is None:
        if present < size:
            raise SizeOutOfRange(file.path, size, 0, present)
        return RawTarget(file)
    if present < min(size, deeper):
        raise ImageUnsupported(ref.path, "a parent larger than itself", "resize it first")
    writer = ImageWriter(file)
    if present < size:
        grow(writer, size)
    return writer


def _upper_bound(layer: VhdLayer) -> int:
    """Bytes in the allocated blocks: known without reading bitmaps, for progress only."""
    return len(layer.tables.allocated) * layer.headers.header.block_size


def _copy(
    layers: Sequence[VhdLayer], target: Target, size: int, total: int, progress: Progress
) -> int:
    copied = 0
    buffer = memoryview(bytearray(PIECE))
    progress(0, total)
    for start in _windows(layers, size):
        end = min(size, start + WINDOW)
        table = _resolve(layers, start, end)
        for piece, rows in _pieces(table):
            copied += _copy_piece(layers, target, buffer, piece, rows)
            progress(min(copied, total), total)
    progress(total, total)
    return copied


def _windows(layers: Sequence[VhdLayer], size: int) -> list[int]:
    """Where the windows begin in which any image has a block; most of a large disk has none."""
    numbers = [layer.tables.allocated * layer.headers.header.block_size for layer in layers]
    starts = np.unique(np.concatenate(numbers) // WINDOW * WINDOW)
    return [int(start) for start in starts if start < size]


def _resolve(layers: Sequence[VhdLayer], start: int, end: int) -> Int64s:
    """Who owns what of a window: rows of (start, end, layer), sorted, cut at every `PIECE`."""
    held = [
        layer.map_window(start, min(end, layer.virtual_size)).extents().clip(start, end)
        for layer in layers
    ]
    return _cut(_owners(held))


def _owners(held: Sequence[Extents]) -> Int64s:
    """Who owns what: rows of (start, end, index into `held`), int64, sorted and disjoint.

    `held` is what each image holds, uppermost first; the first that holds a byte owns it.
    """
    taken = Extents.of(())
    rows = []
    for index, extents in enumerate(held):
        own = extents.minus(taken)
        taken = taken.union(own)
        owner = np.full(len(own), index, dtype=np.int64)
        rows.append(np.stack((own.starts, own.ends, owner), axis=1))
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


def _copy_piece(
    layers: Sequence[VhdLayer], target: Target, buffer: memoryview, piece: int, rows: Int64s
) -> int:
    """Read one piece from its owners and write it; the bytes between stay zero."""
    low, high = int(rows[0, 0]), int(rows[-1, 1])
    data = buffer[: high - low]
    if (rows[1:, 0] > rows[:-1, 1]).any():
        data[:] = bytes(len(data))
    for start, end, owner in rows.tolist():
        layers[owner].read_into(start, data[start - low : end - low])
    held = Extents.from_ranges(rows[:, 0] - low, rows[:, 1] - low)
    target.write(low, data, np.stack((held.starts, held.ends), axis=1))
    return held.total
