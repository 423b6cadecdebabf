"""A chain opened for a guest, for many threads: reads through all images, writes to the leaf.

Like a disk with a write cache: what was written before a `flush` survives any crash after it; a
sector that was written since then has its old or its new contents.

A read whose place is known takes no lock, nor does a write of sectors that the leaf holds already.
Parts of a sector are written in place where the leaf holds it, and only else together with the rest
of the sector, under the lock; so no write can bring back what another one replaced.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import RLock

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError, ImageUnsupported
from sm.cowutil.raw import SECTOR, read_fully
from sm.cowutil.vhd.block_file import ImageFile
from sm.cowutil.vhd.headers import Headers, load_headers
from sm.cowutil.vhd.util import VhdUtil
from sm.cowutil.vhd.writer import ImageWriter
from sm.datapath.vhd_nbd.layers import NOBODY, UNIT, Parent, Window, check_links
from sm.datapath.vhd_nbd.table import RunTable

ZEROES = memoryview(bytes(1 << 20))


class ChainDisk:
    """An `Export` over a chain, uppermost first.

    With `leaf`, the first of them opened for writing, `layers` are the images below it; without,
    nothing is ever written and `layers` are all. Takes over `stack`, which closes all of them.
    """

    def __init__(
        self,
        chain: Sequence[ImageRef],
        leaf: ImageFile | None,
        layers: Sequence[Parent],
        stack: ExitStack,
    ) -> None:
        self.chain = tuple(chain)
        self.read_only = leaf is None
        self.leaf = leaf
        self._lock = RLock()
        self._layers = layers
        self._writer: ImageWriter | None = None
        self._stack = stack
        try:
            members = [layer.headers for layer in layers]
            if leaf is not None:
                members.insert(0, _leaf_headers(chain[0], leaf))
            check_links(members)
            if leaf is not None:
                # Not before all has been looked at: this tidies what a crash left.
                self._writer = ImageWriter(leaf)
            top = members[0]
            self.size: int = layers[0].virtual_size if top is None else top.footer.current_size
        except BaseException:
            stack.close()
            raise
        self._leaf_descriptor = NOBODY if leaf is None else leaf.descriptor
        self._table = RunTable(self.size, self._paint, self._lock)

    # Reading

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with the disk from `offset`."""
        length = len(buffer)
        known = self._table.simple(offset, length)
        if known is not None:
            owner, shift = known
            if owner == NOBODY:
                buffer[:] = bytes(length)
            elif os.preadv(owner, (buffer,), offset + shift) != length:
                read_fully(owner, offset + shift, buffer)
            return
        with _told_as_os_error():
            for owner, shift, start, end in self._table.runs(offset, length):
                piece = buffer[start - offset : end - offset]
                if owner == NOBODY:
                    piece[:] = bytes(end - start)
                else:
                    read_fully(owner, start + shift, piece)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        """(length, whether no image holds it), from `offset` on."""
        with _told_as_os_error():
            for owner, _, start, end in self._table.runs(offset, length):
                yield end - start, owner == NOBODY

    def cache(self, offset: int, length: int) -> None:
        """Have the kernel read ahead."""
        with _told_as_os_error():
            for owner, shift, start, end in self._table.runs(offset, length):
                if owner != NOBODY:
                    os.posix_fadvise(owner, start + shift, end - start, os.POSIX_FADV_WILLNEED)

    # Writing

    def write(self, offset: int, data: memoryview) -> None:
        """Write; durable after the next flush."""
        if not data:
            return
        known = self._table.simple(offset, len(data))
        leaf = self._writable()
        if known is not None and known[0] == self._leaf_descriptor:
            leaf.file.write(offset + known[1], data)
            return
        end = offset + len(data)
        low, high = -(-offset // SECTOR) * SECTOR, end // SECTOR * SECTOR
        with _told_as_os_error(), self._lock:
            if low >= high:
                self._write_parts(leaf, offset, data)
                return
            self._write_parts(leaf, offset, data[: low - offset])
            self._write_sectors(leaf, low, data[low - offset : high - offset])
            self._write_parts(leaf, high, data[high - offset :])

    def write_zeroes(self, offset: int, length: int, *, allocate: bool) -> None:
        """Make zero; takes no space where nothing is held, unless `allocate`."""
        leaf = self._writable()
        end = offset + length
        while offset < end:
            stop = min(end, (offset // UNIT + 1) * UNIT)
            if allocate:
                stop = min(stop, offset + len(ZEROES))
                self.write(offset, ZEROES[: stop - offset])
            else:
                self._clear(leaf, offset, stop)
            offset = stop

    def trim(self, offset: int, length: int) -> None:
        """Nothing: a VHD cannot give a block back, and a parent's data must not come to light."""

    def flush(self) -> None:
        """Make all writes that have returned durable; nothing for a disk that is only read."""
        if self._writer is not None:
            with _told_as_os_error(), self._lock:
                self._writer.commit()

    def level(self) -> tuple[int, int] | None:
        """How many bytes the leaf takes of its volume, and its size; None if only read."""
        if self._writer is None or self.leaf is None:
            return None
        return self._writer.end, self.leaf.size()

    # Life

    def reload(self) -> None:
        """Take up what somebody else changed in the leaf's tables; nothing may be pending."""
        with self._lock:
            if self._writer is not None:
                self._writer.reload()
            self._table.clear()

    def close(self) -> None:
        """Release the files. Does not flush."""
        self._stack.close()

    def _paint(self, window: Window) -> None:
        for layer in reversed(self._layers):
            layer.paint(window)
        if self._writer is None:
            return
        size = self._writer.headers.header.block_size
        end = min(window.end, self.size)
        for block in range(window.start // size, -(-end // size)):
            if self._writer.is_allocated(block):
                shift = self._writer.offset_of(block) - block * size
                present = self._writer.present(block)
                window.paint_sectors(block * size, present, self._leaf_descriptor, shift)

    def _writable(self) -> ImageWriter:
        if self._writer is None:
            raise OSError(errno.EPERM, "the disk is only read")
        return self._writer

    def _write_sectors(self, leaf: ImageWriter, offset: int, data: memoryview) -> None:
        try:
            leaf.write(offset, data)
        finally:
            # Also after a failure, which may have come when a part was written.
            self._table.drop(offset, len(data))
        self._settle(leaf, offset, len(data))

    def _settle(self, leaf: ImageWriter, offset: int, length: int) -> None:
        """Let later writes of units that the leaf holds whole by now go without the lock."""
        if leaf.headers.header.block_size == UNIT:
            for block in range(offset // UNIT, (offset + length - 1) // UNIT + 1):
                if leaf.present(block).all():
                    shift = leaf.offset_of(block) - block * UNIT
                    self._table.put(block, (self._leaf_descriptor, shift))

    def _write_parts(self, leaf: ImageWriter, offset: int, data: memoryview) -> None:
        """Write less than a sector, or the end of one and the beginning of the next."""
        end = offset + len(data)
        while offset < end:
            sector = offset // SECTOR * SECTOR
            stop = min(end, sector + SECTOR)
            piece, data = data[: stop - offset], data[stop - offset :]
            ((owner, shift, _, _),) = self._table.runs(offset, stop - offset)
            if owner == self._leaf_descriptor:
                leaf.file.write(offset + shift, piece)
            else:
                whole = memoryview(bytearray(SECTOR))
                self.read_into(sector, whole)
                whole[offset - sector : stop - sector] = piece
                self._write_sectors(leaf, sector, whole)
            offset = stop

    def _clear(self, leaf: ImageWriter, offset: int, end: int) -> None:
        """Make a part of one unit zero."""
        low, high = -(-offset // SECTOR) * SECTOR, end // SECTOR * SECTOR
        with _told_as_os_error(), self._lock:
            if all(owner == NOBODY for owner, *_ in self._table.runs(offset, end - offset)):
                return
            if low >= high:
                self._write_parts(leaf, offset, ZEROES[: end - offset])
                return
            self._write_parts(leaf, offset, ZEROES[: low - offset])
            try:
                leaf.write_zeroes(low, high - low)
            finally:
                self._table.drop(low, high - low)
            self._write_parts(leaf, high, ZEROES[: end - high])


def _leaf_headers(ref: ImageRef, leaf: ImageFile) -> Headers:
    if ref.format != VhdUtil.name:
        raise ImageUnsupported(ref.path, f"{ref.format} as a leaf", "serve it read-only")
    return load_headers(leaf)


@contextmanager
def _told_as_os_error() -> Iterator[None]:
    """A fault of an image becomes EIO, which a client can be told."""
    try:
        yield
    except ImageError as error:
        raise OSError(errno.EIO, str(error)) from error
