"""Everything at fixed places of one image, read and validated: footers, header, batmap header.

The copy of the footer at byte 0 is the truth of a sparse image. The one at the end is in the way of
new blocks, so after a crash a guest's own data may lie there and look like a footer; it counts only
when the copy is unreadable. A fixed disk has no copy: its first bytes are the guest's.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt, ImageError, ImageNotRecognised
from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.footer import (
    CREATOR,
    FOOTER_SIZE,
    TYPE_OFFSET,
    Footer,
    Kind,
    unpack_footer,
)
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import (
    BATMAP_HEADER_SIZE,
    HEADER_SIZE,
    BatmapHeader,
    Header,
    unpack_batmap_header,
    unpack_header,
)

HEADER_OFFSET = FOOTER_SIZE
SPARE_OFFSET = HEADER_OFFSET + HEADER_SIZE
"""Where our images leave room for a second header while the first is being replaced."""

QCOW2_MAGIC = b"QFI\xfb"
"""No writer leaves this at byte 0 of a sparse VHD: such a file was made to be two things."""

MAX_BLOCKS = 1 << 22
"""2040 GiB in blocks of 512 KiB and some; caps the allocation table at 16 MiB of memory."""


@dataclass(frozen=True, slots=True)
class Headers:
    """What is known of an image before its tables. Sizes in bytes.

    `end_footer`: the valid footer at the very end, or None; it may differ from `footer`.
    `copy_valid`: whether the footer at byte 0 is good. `from_spare`: the header at its own place is
    torn, and the spare one was taken. `sparse`: None for a fixed disk.
    """

    path: Path
    file_size: int
    footer: Footer
    end_footer: Footer | None
    copy_valid: bool
    sparse: Header | None
    from_spare: bool = False

    @property
    def header(self) -> Header:
        """The sparse header; only for an image that is known to be no fixed disk."""
        assert self.sparse is not None  # noqa: S101 - the caller has looked
        return self.sparse

    @property
    def block_count(self) -> int:
        """Table entries that the virtual size needs."""
        return -(-self.footer.current_size // self.header.block_size)


def load_headers(file: BlockFile) -> Headers:
    """Read and validate all fixed structures; typed refusals as in `unpack_footer`."""
    size = file.size()
    front = read(file, 0, SPARE_OFFSET)
    copy = _try_footer(file.path, front[:FOOTER_SIZE], 0)
    end = _end_footer(file, size)
    if isinstance(copy, Footer) and copy.kind is not Kind.FIXED:
        if isinstance(end, Footer) and end.kind is Kind.FIXED:
            at = size - FOOTER_SIZE + TYPE_OFFSET
            raise ImageCorrupt(file.path, "footer type", at, "fixed here, sparse at byte 0")
        footer = copy
    elif isinstance(end, Footer):
        footer = end
    elif isinstance(copy, ImageError) and not isinstance(copy, ImageNotRecognised):
        raise copy
    elif isinstance(end, ImageError):
        raise end
    else:
        raise ImageNotRecognised(file.path, "has no valid VHD footer")
    end_footer = end if isinstance(end, Footer) else None
    if footer.kind is Kind.FIXED:
        return _fixed(file.path, size, footer)
    if front[: len(QCOW2_MAGIC)] == QCOW2_MAGIC:
        raise ImageCorrupt(file.path, "footer copy", 0, "is the header of a QCOW2 image")
    start = 0 if footer is copy else size - FOOTER_SIZE
    header, from_spare = _load_header(file, footer, start, front)
    headers = Headers(file.path, size, footer, end_footer, footer is copy, header, from_spare)
    _check_table(headers)
    return headers


def batmap_header(file: BlockFile, headers: Headers) -> BatmapHeader | None:
    """The batmap's header; None where the creator writes none, or it is destroyed.

    `ImageCorrupt` for a map that cannot be where the header says: blocks that are added later could
    otherwise come to lie on it.
    """
    if not has_batmap(headers.footer):
        return None
    at = headers.header.table_end
    found = unpack_batmap_header(read(file, at, BATMAP_HEADER_SIZE))
    if found is None:
        return None
    outside = found.offset < SECTOR or found.offset % SECTOR or found.end > headers.file_size
    if outside or found.sectors * SECTOR > MAX_BLOCKS:
        problem = f"no place for {found.sectors} sectors in this file"
        raise ImageCorrupt(headers.path, "batmap offset", at + 8, f"{found.offset} is {problem}")
    return found


def has_batmap(footer: Footer) -> bool:
    """Whether the creator always writes a batmap: blktap since 1.2.

    Before, the first block could be in its place, and a guest's data look like one.
    """
    return footer.creator == CREATOR and footer.creator_version >= 0x00010002


def metadata_ranges(file: BlockFile, headers: Headers) -> list[tuple[int, int]]:
    """Where in the file no block may be, as sorted (start, end) in bytes; they may touch.

    `ImageCorrupt` for a batmap or a locator that is not in the file or lies on something else: a
    change of one would destroy the other.
    """
    header = headers.header
    ranges = [
        (0, FOOTER_SIZE),
        (headers.footer.data_offset, headers.footer.data_offset + HEADER_SIZE),
        (header.table_offset, header.table_end),
    ]
    batmap = batmap_header(file, headers)
    if batmap is not None:
        field = ("batmap offset", header.table_end + 8)
        ranges.append((header.table_end, header.table_end + BATMAP_HEADER_SIZE))
        _require_apart(headers, field, (batmap.offset, batmap.end), ranges)
        ranges.append((batmap.offset, batmap.end))
    fixed = tuple(ranges)
    for index, locator in enumerate(header.locators):
        if locator is not None:
            field = (f"header locator {index} offset", header.locator_position(index) + 16)
            end = locator.offset + locator.space
            if end > headers.file_size:
                problem = f"{locator.offset} is no place for {locator.space} bytes"
                raise ImageCorrupt(headers.path, *field, problem)
            # Only its text: some writers claim more space than there is in front of the next.
            text = (locator.offset, locator.offset + locator.length)
            _require_apart(headers, field, text, fixed)
            ranges.append((locator.offset, end))
    return sorted(ranges)


def _require_apart(
    headers: Headers,
    field: tuple[str, int],
    place: tuple[int, int],
    others: Iterable[tuple[int, int]],
) -> None:
    start, end = place
    for other_start, other_end in others:
        if start < other_end and other_start < end:
            problem = f"{start} overlaps what is at byte {other_start}"
            raise ImageCorrupt(headers.path, *field, problem)


def _end_footer(file: BlockFile, size: int) -> Footer | ImageError:
    if size < FOOTER_SIZE:
        return ImageNotRecognised(file.path, "is too short for a VHD")
    at = size - FOOTER_SIZE
    found = _try_footer(file.path, read(file, at, FOOTER_SIZE), at)
    if isinstance(found, ImageNotRecognised) and size % SECTOR == SECTOR - 1:
        return _try_footer(file.path, read(file, at + 1, FOOTER_SIZE), at + 1)
    return found


def _try_footer(path: Path, raw: bytes, offset: int) -> Footer | ImageError:
    try:
        return unpack_footer(path, raw, offset)
    except ImageError as error:
        return error


def _fixed(path: Path, size: int, footer: Footer) -> Headers:
    room = size // SECTOR * SECTOR - (FOOTER_SIZE if size % SECTOR == 0 else 0)
    if footer.current_size > room:
        problem = f"{footer.current_size} exceeds the {room} bytes in front of the footer"
        raise ImageCorrupt(path, "footer current size", size - FOOTER_SIZE + 48, problem)
    return Headers(path, size, footer, footer, copy_valid=False, sparse=None)


def _load_header(file: BlockFile, footer: Footer, start: int, front: bytes) -> tuple[Header, bool]:
    """The header that the footer at byte `start` leads to, and whether it is the spare one."""
    at = footer.data_offset
    if at % SECTOR or at < HEADER_OFFSET or at + HEADER_SIZE > file.size():
        problem = f"{at} is no place for a header"
        raise ImageCorrupt(file.path, "footer data offset", start + 16, problem)
    raw = front[at:] if at == HEADER_OFFSET else read(file, at, HEADER_SIZE)
    try:
        return unpack_header(file.path, raw, at), False
    except ImageCorrupt:
        spare = read(file, SPARE_OFFSET, HEADER_SIZE) if at == HEADER_OFFSET else b""
        try:
            return unpack_header(file.path, spare, SPARE_OFFSET), True
        except ImageError:
            pass  # there is no spare: what is wrong with the header itself is the news
        raise


def _check_table(headers: Headers) -> None:
    header, at = headers.header, headers.footer.data_offset

    def refuse(field: str, offset: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(headers.path, f"header {field}", at + offset, problem)

    if headers.block_count > MAX_BLOCKS:
        raise refuse("block size", 32, f"{header.block_size} is too small for the virtual size")
    if header.table_entries < headers.block_count:
        problem = f"{header.table_entries} do not cover the virtual size"
        raise refuse("table entries", 28, problem)
    if header.table_entries > MAX_BLOCKS:
        raise refuse("table entries", 28, f"{header.table_entries} are more than any disk needs")
    if header.table_offset + header.table_entries * 4 > headers.file_size:
        raise refuse("table offset", 16, "the table reaches beyond the file")
    if header.table_offset < at + HEADER_SIZE and header.table_end > at:
        raise refuse("table offset", 16, "the table overlaps the header")
