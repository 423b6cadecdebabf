"""One sparse image opened for writing: the only place that allocates blocks.

Everything that a write adds stays invisible until `commit`, which goes in an order that any crash
may interrupt:

1. a zeroed bitmap and the data of each new block, and a new footer behind them; flush
2. the table entries of the new blocks; flush
3. the bits of the sectors that were written; flush

After a crash before 2 the new blocks are leaked space at the end, which the next writer takes away.
After one before 3 they are allocated and hold nothing yet. The old footer at the end is overwritten
by the first new block; its copy at byte 0 stays, and counts.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from sm.cowutil.errors import ImageCorrupt, ImageUnsupported
from sm.cowutil.extents import Int64s
from sm.cowutil.vhd.block_file import BlockFile, no_space, read
from sm.cowutil.vhd.change import replace_header
from sm.cowutil.vhd.extents import sector_bits
from sm.cowutil.vhd.footer import FOOTER_SIZE, Kind, checksum
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import UNUSED, pack_batmap_header
from sm.cowutil.vhd.headers import Headers, batmap_header, load_headers
from sm.cowutil.vhd.layout import DATA_ALIGNMENT, round_up
from sm.cowutil.vhd.tables import data_end, load_tables, read_bitmaps

PENDING_BLOCKS = 1024
"""Blocks whose bits are kept, about 4 MiB; a commit comes by itself when half are not on disk."""

ZEROES = bytes(1 << 20)


class ImageWriter:
    """Writes guest data of one image; sectors are the smallest unit. Does not own `file`.

    Opening tidies what a crash left: the space behind the last block is cut off and both footers
    are made valid.
    """

    def __init__(self, file: BlockFile) -> None:
        headers = load_headers(file)
        if headers.sparse is None:
            raise ImageUnsupported(file.path, "a fixed size", "write it as a raw disk")
        self.file = file
        self.headers: Headers = headers
        self.tables = load_tables(file, headers)
        self._bits: dict[int, npt.NDArray[np.bool_]] = {}
        self._dirty: set[int] = set()
        self._new: set[int] = set()
        self._torn = False
        """Whether a place that was not taken after all may have been written to."""
        self._tail = data_end(headers, self.tables)
        if headers.from_spare:
            replace_header(file, headers, headers.header)
        if self.tables.stale_batmap:
            self.clear_batmap()
        self.seal()

    @property
    def end(self) -> int:
        """Where the image ends, with its footer, when what was written is committed; bytes."""
        return self._tail + FOOTER_SIZE

    def seal(self) -> None:
        """End the file right behind its data, with both footers equal and durable.

        First the copy at byte 0, then the end: at any time one of them is valid.
        """
        file, footer = self.file, self.headers.footer.pack()
        end = self._footer_offset()
        if end < self._tail:
            problem = "the last block reaches into the footer's place"
            raise ImageCorrupt(file.path, "block allocation table", end, problem)
        sealed = file.size() == end + FOOTER_SIZE and read(file, end, FOOTER_SIZE) == footer
        if read(file, 0, FOOTER_SIZE) != footer:
            file.write(0, footer)
            file.flush()
        if not sealed:
            if file.resizable:
                # Cut first, so that space which is allocated later reads as zero.
                file.truncate(self._tail)
            file.write(end, footer)
            file.flush()

    def present(self, block: int) -> npt.NDArray[np.bool_]:
        """One boolean for each sector of `block`: whether this image holds it. Do not change it."""
        if block not in self._bits:
            size = self.headers.header.block_size
            if self.tables.bat[block] == UNUSED:
                return np.zeros(size // SECTOR, dtype=np.bool_)
            if self.tables.full[block]:
                return np.ones(size // SECTOR, dtype=np.bool_)
            self._make_room_for_bits()
            stored = read_bitmaps(self.file, self.headers, self.tables.bat[block : block + 1])
            self._bits[block] = sector_bits(stored, size)[0].copy()
        return self._bits[block]

    def offset_of(self, block: int) -> int:
        """Where in the file the data of an allocated `block` begins."""
        return int(self.tables.bat[block]) * SECTOR + self.headers.header.bitmap_size

    def is_allocated(self, block: int) -> bool:
        """Whether `block` has a place in the file."""
        return bool(self.tables.bat[block] != UNUSED)

    def read_into(self, block: int, within: int, buffer: memoryview) -> None:
        """Fill `buffer` from the data of an allocated `block`; sectors not held are rubbish."""
        done = self.file.read_into(self.offset_of(block) + within, buffer)
        # A new block ends in a hole behind the end of the file.
        buffer[done:] = bytes(len(buffer) - done)

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """Write guest bytes, whole sectors, visible to others after the next commit.

        `held`: (start, end) pairs in bytes of `data`, shape (n, 2), where only parts of it belong
        to the guest; the parts between must be zero and go nowhere.
        """
        size = self.headers.header.block_size
        if held is None:
            held = np.array([[0, len(data)]], dtype=np.int64)
        done = 0
        while done < len(data):
            block, within = divmod(offset + done, size)
            count = min(len(data) - done, size - within)
            pieces = np.clip(held, done, done + count) - done
            self._write_block(block, within, data[done : done + count], pieces)
            done += count

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make whole sectors zero, without writing data where a new block is zero anyway."""
        size = self.headers.header.block_size
        while length:
            block, within = divmod(offset, size)
            count = min(length, size - within)
            if self.is_allocated(block):
                for at in range(0, count, len(ZEROES)):
                    piece = memoryview(ZEROES)[: count - at]
                    self.file.write(self.offset_of(block) + within + at, piece)
            else:
                self._allocate(block)
            self._mark(block, within, within + count)
            offset += count
            length -= count

    def commit(self) -> None:
        """Make all that was written durable and visible, in the order above.

        After a failure to write, as for lack of space, it may be called again: each step repeats
        what it may have done. After a flush that failed, `file` lets nothing more through.
        """
        if self.file.resizable and (self._new or self._torn):
            self.file.write(self._tail, self.headers.footer.pack())
            if self._torn:
                self.file.truncate(self._tail + FOOTER_SIZE)
                self._torn = False
        self.file.flush()
        if self._new:
            self._write_table(np.array(sorted(self._new), dtype=np.int64))
            self.file.flush()
            self._new.clear()
        if self._dirty:
            for block in sorted(self._dirty):
                position = int(self.tables.bat[block]) * SECTOR
                self.file.write(position, np.packbits(self._bits[block]).tobytes())
            self.file.flush()
            self._dirty.clear()

    def forget(self, block: int, sectors: slice) -> None:
        """No longer hold `sectors` of an allocated `block`, from the next commit on.

        Their data is zeroed too, for readers that ignore the bits.
        """
        if self.tables.full[block]:
            self.clear_batmap()
        bits = self.present(block)
        if bits[sectors].any():
            start, end, _ = sectors.indices(len(bits))
            self.file.write(self.offset_of(block) + start * SECTOR, bytes((end - start) * SECTOR))
            bits[sectors] = False
            self._dirty.add(block)

    def relocate(self, blocks: Int64s) -> None:
        """Move allocated `blocks` behind the last one, durably; leaves the old places unused.

        Copies first, then the table entries, so a crash leaves each block at one place.
        """
        self.commit()
        stride = self.headers.header.stride
        for block in blocks.tolist():
            old = int(self.tables.bat[block]) * SECTOR
            new = self._next_place()
            data = bytearray(stride)
            self.file.read_into(old, memoryview(data))
            self.file.write(new, data)
            self.tables.bat[block] = new // SECTOR
            self._new.add(block)
        self.commit()

    def release(self, first: int, last: int) -> None:
        """Hold nothing of the blocks from `first` up to `last` any more, and give back their space.

        Nothing may be pending. The table goes first, durably, so that no entry ever leads to what
        has been given back. Readers that have the table in memory would read zeroes.
        """
        blocks = first + np.flatnonzero(self.tables.bat[first:last] != UNUSED)
        if len(blocks) == 0:
            return
        if self.tables.full[blocks].any():
            self.clear_batmap()
        places = self.tables.bat[blocks].tolist()
        self.tables.bat[blocks] = UNUSED
        self._write_table(blocks)
        self.file.flush()
        for place in places:
            self.file.discard(place * SECTOR, self.headers.header.stride)

    def reserve(self, end: int) -> None:
        """Put no block in front of byte `end` from now on; ENOSPC where a volume ends before it."""
        if not self.file.resizable and end > self._footer_offset():
            raise no_space(self.file)
        self._tail = max(self._tail, end)

    def reload(self) -> None:
        """Take up headers and tables that were changed on disk; nothing may be pending."""
        self.headers = load_headers(self.file)
        self.tables = load_tables(self.file, self.headers)
        self._bits.clear()
        self._tail = data_end(self.headers, self.tables)
        if self.tables.stale_batmap:
            self.clear_batmap()

    def set_footer(
        self,
        *,
        hidden: bool | None = None,
        current_size: int | None = None,
        kind: Kind | None = None,
    ) -> None:
        """Change the footer, durably: the copy at byte 0, which counts, then the one at the end."""
        footer = self.headers.footer
        if kind is not None:
            footer = replace(footer, kind=kind)
        if hidden is not None:
            footer = replace(footer, hidden=hidden)
        if current_size is not None:
            footer = replace(footer, current_size=current_size, geometry=None)
        self.headers = replace(self.headers, footer=footer)
        self.seal()

    def _footer_offset(self) -> int:
        return self._tail if self.file.resizable else self.file.size() - FOOTER_SIZE

    def _write_block(self, block: int, within: int, data: memoryview, held: Int64s) -> None:
        held = held[held[:, 1] > held[:, 0]]
        if len(held) == 0:
            return
        pieces = held.tolist()
        if not self.is_allocated(block):
            self._allocate(block)
            pieces = [(0, len(data))]
        base = self.offset_of(block) + within
        try:
            for start, end in pieces:
                self.file.write(base + start, data[start:end])
        except OSError:
            self._blank_unheld(block, within, within + len(data))
            raise
        for start, end in held.tolist():
            self._mark(block, within + start, within + end)

    def _blank_unheld(self, block: int, start: int, end: int) -> None:
        """Take back what a write that failed may have put where nothing is held.

        It has no bit, but there are readers that look at none. On a volume it stays.
        """
        first = start // SECTOR
        unheld = first + np.flatnonzero(~self.present(block)[first : end // SECTOR])
        if len(unheld):
            # Whoever writes is told of the first failure alone.
            with suppress(OSError):
                for low, high in _neighbours(unheld):
                    place = self.offset_of(block) + low * SECTOR
                    self.file.discard(place, (high - low) * SECTOR)

    def _allocate(self, block: int) -> None:
        """Give `block` a place with a zero bitmap and zero data, in memory only."""
        self._make_room_for_bits()
        header = self.headers.header
        before = self._tail
        position = self._next_place()
        try:
            self._blank(position)
        except OSError:
            # The place stays free; the footer may have been overwritten, or lie within the file.
            self._tail, self._torn = before, True
            raise
        self.tables.bat[block] = position // SECTOR
        self._bits[block] = np.zeros(header.block_size // SECTOR, dtype=np.bool_)
        self._new.add(block)

    def _blank(self, position: int) -> None:
        """Write the zeroes of a new block: its bitmap, and its data where there is no hole."""
        header = self.headers.header
        self.file.write(position, bytes(header.bitmap_size))
        if not self.file.resizable:
            # Behind the end of a regular file there is a hole; a volume holds what was there.
            for at in range(0, header.block_size, len(ZEROES)):
                rest = memoryview(ZEROES)[: header.block_size - at]
                self.file.write(position + header.bitmap_size + at, rest)

    def _next_place(self) -> int:
        """Take the next place for a block; ENOSPC where a volume or the format ends."""
        header = self.headers.header
        position = round_up(self._tail + header.bitmap_size, DATA_ALIGNMENT) - header.bitmap_size
        end = position + header.stride
        full = position // SECTOR >= UNUSED
        if full or not (self.file.resizable or end <= self.file.size() - FOOTER_SIZE):
            raise no_space(self.file)
        self._tail = end
        return position

    def _mark(self, block: int, start: int, end: int) -> None:
        bits = self.present(block)
        if not bits[start // SECTOR : end // SECTOR].all():
            bits[start // SECTOR : end // SECTOR] = True
            self._dirty.add(block)

    def _make_room_for_bits(self) -> None:
        """Before more bits are kept, drop those on disk; commit first when few are."""
        if len(self._bits) < PENDING_BLOCKS:
            return
        pending = self._dirty | self._new
        if len(pending) > PENDING_BLOCKS // 2:
            self.commit()
            pending = set()
        self._bits = {block: bits for block, bits in self._bits.items() if block in pending}

    def _write_table(self, blocks: Int64s) -> None:
        for first, last in _neighbours(blocks):
            entries = self.tables.bat[first:last].astype(">u4").tobytes()
            self.file.write(self.headers.header.table_offset + 4 * first, entries)

    def clear_batmap(self) -> None:
        """Forget, durably, which blocks are known to be full; it is only a hint.

        Needed before a block that the map calls full may come to hold less than that.
        """
        found = batmap_header(self.file, self.headers)
        if found is None:
            return
        self.file.write(found.offset, bytes(found.sectors * SECTOR))
        raw = pack_batmap_header(found.offset, found.sectors, checksum(b""), found.raw)
        self.file.write(self.headers.header.table_end, raw)
        self.file.flush()
        self.tables.full[:] = False
        self.tables.stale_batmap = False


def _neighbours(blocks: Int64s) -> Iterator[tuple[int, int]]:
    """Runs of consecutive numbers in ascending `blocks`, as (first, last + 1)."""
    breaks = np.flatnonzero(np.diff(blocks) != 1) + 1
    for run in np.split(blocks, breaks):
        yield int(run[0]), int(run[-1]) + 1
