"""Merging images of a chain into one of them: down into an ancestor, or up into a descendant.

Data that goes down is hidden behind the images that are merged as long as these are there, and data
that goes up is what the image shows anyway; so stopping anywhere leaves the disk as it was.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from functools import partial

import numpy as np

from sm.cowutil import transfer
from sm.cowutil.base import ImageRef, Progress, Steps
from sm.cowutil.errors import ImageCorrupt, ImageUnsupported, SizeOutOfRange
from sm.cowutil.extents import Extents, Int64s
from sm.cowutil.transfer import WINDOW, Target, Work
from sm.cowutil.vhd.block_file import Access, BlockFile, Opener
from sm.cowutil.vhd.footer import Kind
from sm.cowutil.vhd.growth import grow
from sm.cowutil.vhd.header import NO_PARENT_ID
from sm.cowutil.vhd.headers import load_headers
from sm.cowutil.vhd.layer import VhdLayer
from sm.cowutil.vhd.writer import ImageWriter

ZEROES = bytes(1 << 20)


class RawTarget:
    """A raw disk, or the data area of a fixed one."""

    def __init__(self, file: BlockFile) -> None:
        self._file = file

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """Write the held parts of `data`; what lies between stays as it is."""
        pieces = [(0, len(data))] if held is None else held.tolist()
        for start, end in pieces:
            self._file.write(offset + start, data[start:end])

    def write_zeroes(self, offset: int, length: int) -> None:
        """Write zeroes; VHD images hold none that are not data, so this is for completeness."""
        for at in range(0, length, len(ZEROES)):
            self._file.write(offset + at, memoryview(ZEROES)[: length - at])

    def commit(self) -> None:
        """Make everything written durable."""
        self._file.flush()


def merge(
    chain: Sequence[ImageRef], into: int, progress: Progress, steps: Steps, open_file: Opener
) -> int:
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
        file = _opened(stack, chain[into], open_file)
        _check_sizes(chain, [layer.virtual_size for layer in layers])
        raw = chain[into].format == "raw"
        ids = [layer.headers.footer.unique_id for layer in layers[1:]]
        _check_links(layers, [*ids, NO_PARENT_ID if raw else load_headers(file).footer.unique_id])
        target = _target(file, chain[into], size, max(deeper, default=0))
        # The lowest first: what is above it hides it, until the target alone has everything.
        givers = [
            _opened(stack, ref, open_file) for ref in reversed(chain[:into]) if steps.give_back
        ]
        work = Work(
            chain[into].path,
            layers,
            target,
            size,
            sum(layer.allocated_size() for layer in layers),
            proof=partial(_held, chain[into], open_file),
            release=partial(_release, givers),
            windows=_windows(layers, size),
        )
        return transfer.copy(work, progress, steps)


def pull(
    chain: Sequence[ImageRef], count: int, progress: Progress, steps: Steps, open_file: Opener
) -> int:
    """As `CowUtil.pull`; returns the guest bytes copied."""
    if not 0 < count < len(chain):
        raise ValueError(f"a chain of {len(chain)} has no {count} images below the first")
    for ref in chain[1 : count + 1]:
        if ref.format != "vhd":
            raise ImageUnsupported(ref.path, f"{ref.format} below a VHD", "merge into it instead")
    with ExitStack() as stack:
        file = _opened(stack, chain[0], open_file)
        writer = ImageWriter(file)
        upper = _layer(stack, chain[0], open_file)
        below = [VhdLayer(open_file(ref.path, Access.READ)) for ref in chain[1 : count + 1]]
        layers = [upper, *map(stack.enter_context, below)]
        _check_sizes(chain, [layer.virtual_size for layer in layers])
        _check_links(layers[:-1], [layer.headers.footer.unique_id for layer in below])
        # What is above them all covers them all. A fixed disk keeps what it has.
        sparse = [layer.headers.path for layer in below if layer.headers.sparse is not None]
        giving = [ref for ref in chain[1 : count + 1] if steps.give_back and ref.path in sparse]
        givers = [_opened(stack, ref, open_file) for ref in giving]
        work = Work(
            chain[0].path,
            layers,
            writer,
            upper.virtual_size,
            sum(layer.allocated_size() for layer in below),
            proof=partial(_held, chain[0], open_file),
            release=partial(_release, givers),
            covered=1,
            windows=_windows(below, upper.virtual_size),
        )
        return transfer.copy(work, progress, steps)


def _opened(stack: ExitStack, ref: ImageRef, open_file: Opener) -> BlockFile:
    file = open_file(ref.path, Access.WRITE)
    stack.callback(file.close)
    return file


def _held(ref: ImageRef, open_file: Opener, start: int, end: int) -> Extents:
    """What an image holds between two bytes of the disk, read afresh."""
    if ref.format == "raw":
        return Extents.of([(start, end)])
    with VhdLayer(open_file(ref.path, Access.READ)) as layer:
        end = min(end, layer.virtual_size)
        return layer.map_window(start, end).extents().clip(start, end)


def _release(givers: Sequence[BlockFile], start: int, end: int) -> None:
    """Let go of the blocks that lie between two bytes of the disk, in one image after another."""
    for file in givers:
        writer = ImageWriter(file)
        size = writer.headers.header.block_size
        writer.release(-(-start // size), min(end // size, writer.headers.block_count))


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


def _check_links(layers: Sequence[VhdLayer], parents: Sequence[bytes]) -> None:
    """Refuse a chain whose images do not name each other, however it was put together."""
    for layer, expected in zip(layers, parents, strict=True):
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


def _windows(layers: Sequence[VhdLayer], size: int) -> list[int] | None:
    """Where the windows begin in which any image has a block; most of a large disk has none."""
    if any(layer.headers.sparse is None for layer in layers):
        return None  # a fixed one has all of them
    numbers = [layer.tables.allocated * layer.headers.header.block_size for layer in layers]
    starts = np.unique(np.concatenate(numbers) // WINDOW * WINDOW)
    return [int(start) for start in starts if start < size]
