"""The images below a leaf, or all of a chain that is only read, and who of them holds what."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack

import numpy as np
import numpy.typing as npt

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageCorrupt, ImageUnsupported
from sm.cowutil.extents import ExtentMap, Int64s
from sm.cowutil.raw import SECTOR, RawFormat
from sm.cowutil.vhd.block_file import Access, ImageFile, open_file
from sm.cowutil.vhd.footer import Kind
from sm.cowutil.vhd.header import NO_PARENT_ID
from sm.cowutil.vhd.headers import Headers
from sm.cowutil.vhd.layer import VhdLayer
from sm.cowutil.vhd.util import VhdUtil

UNIT = 2 << 20
"""Bytes of the disk that are resolved at once: one block of almost every VHD."""

NOBODY = -1


class Window:
    """Who holds the sectors of one unit of the disk, painted from the base up.

    `owner`: descriptor, `NOBODY` where it reads as zero; `shift`: file offset less disk offset.
    Both int64, one element for each sector from disk offset `start`.
    """

    def __init__(self, start: int, end: int) -> None:
        self.start = start
        count = -(-(end - start) // SECTOR)
        self.owner: Int64s = np.full(count, NOBODY, dtype=np.int64)
        self.shift: Int64s = np.zeros(count, dtype=np.int64)

    @property
    def end(self) -> int:
        """The disk offset behind the last sector."""
        return self.start + len(self.owner) * SECTOR

    def cut(self, size: int) -> None:
        """Hide what is held behind `size`, where the image on top ends."""
        if size < self.end:
            first = max(0, -(-(size - self.start) // SECTOR))
            self.owner[first:] = NOBODY
            self.shift[first:] = 0

    def paint(self, held: ExtentMap, descriptor: int) -> None:
        """Put what an image holds over what is there."""
        begin = np.maximum(held.start, self.start)
        end = np.minimum(held.start + held.length, self.end)
        inside = end > begin
        begin, end = begin[inside], end[inside]
        shift = (held.offset - held.start)[inside]
        first = (begin - self.start) // SECTOR
        count = -(-(end - self.start) // SECTOR) - first
        before = np.cumsum(count) - count
        places = np.repeat(first - before, count) + np.arange(int(count.sum()))
        self.owner[places] = descriptor
        self.shift[places] = np.repeat(shift, count)

    def paint_sectors(
        self, offset: int, present: npt.NDArray[np.bool_], descriptor: int, shift: int
    ) -> None:
        """Put the sectors from disk offset `offset` that are `present` over what is there."""
        first = (offset - self.start) // SECTOR
        present = present[: len(self.owner) - first]
        piece = slice(first, first + len(present))
        self.owner[piece][present] = descriptor
        self.shift[piece][present] = shift


class RawBase:
    """A raw image at the bottom of a chain, in which every byte is held."""

    headers: Headers | None = None

    def __init__(self, file: ImageFile) -> None:
        self.file = file
        self.virtual_size = file.size()

    def paint(self, window: Window) -> None:
        """Put all of it on the window."""
        window.cut(self.virtual_size)
        size = np.array([self.virtual_size], dtype=np.int64)
        zero = np.zeros(1, dtype=np.int64)
        data = np.ones(1, dtype=np.uint8)
        window.paint(ExtentMap(zero, size, data, zero), self.file.descriptor)


class VhdParent:
    """A VHD that is only read. Its sector bitmaps are read when they are first needed.

    Somebody may be merging images above it into it meanwhile: what is added to it is hidden by the
    images that are merged, which are above it here too.
    """

    def __init__(self, file: ImageFile) -> None:
        self.file = file
        self._layer = VhdLayer(file)
        self.headers: Headers | None = self._layer.headers
        self.virtual_size = self._layer.virtual_size
        if self._layer.headers.sparse is not None:
            # Now, and not under a client's request: this is where a bad table is refused.
            _ = self._layer.tables

    def paint(self, window: Window) -> None:
        """Put what it holds on the window."""
        window.cut(self.virtual_size)
        end = min(window.end, self.virtual_size)
        if window.start < end:
            window.paint(self._layer.map_window(window.start, end), self.file.descriptor)


Parent = RawBase | VhdParent


def open_layers(stack: ExitStack, chain: Sequence[ImageRef]) -> list[Parent]:
    """Open images for reading, uppermost first; `stack` closes them. Typed refusals."""
    found: list[Parent] = []
    for number, ref in enumerate(chain):
        base = number == len(chain) - 1
        if ref.format not in {VhdUtil.name, RawFormat.name}:
            raise ImageUnsupported(ref.path, f"{ref.format} in a chain of VHDs", "convert it")
        if ref.format == RawFormat.name and not base:
            raise ImageUnsupported(ref.path, f"{ref.format} above another image", "use a VHD")
        file = open_file(ref.path, Access.READ)
        stack.callback(file.close)
        found.append(RawBase(file) if ref.format == RawFormat.name else VhdParent(file))
    return found


def check_links(members: Sequence[Headers | None]) -> None:
    """Refuse a chain in which an image is not the parent of the one above; None stands for raw.

    Neither names nor paths in images are looked at, only the identities.
    """
    for number, headers in enumerate(members):
        if headers is None:
            continue
        has_parent = headers.footer.kind is Kind.DIFFERENCING
        last = number == len(members) - 1
        if has_parent == last:
            feature = "a parent that was not given" if last else "no parent"
            raise ImageUnsupported(headers.path, feature, "give the whole chain")
        if has_parent:
            below = members[number + 1]
            expected = NO_PARENT_ID if below is None else below.footer.unique_id
            if headers.header.parent_id != expected:
                at = headers.footer.data_offset + 40
                problem = "another image than the next of the chain"
                raise ImageCorrupt(headers.path, "header parent unique id", at, problem)
