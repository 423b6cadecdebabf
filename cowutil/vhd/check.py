"""Examine all metadata of one image, as libvhd's check does and further.

What a reader of this package survives without loss counts as a leak, although other programs may
complain: a missing or old footer at the end, a header taken from its spare place, unused space.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from sm.cowutil.base import CheckReport
from sm.cowutil.errors import ImageCorrupt, ImageUnsafe
from sm.cowutil.vhd.batmap import checksum_of, covered_part
from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.extents import false_claim, sector_bits
from sm.cowutil.vhd.footer import CREATOR, FOOTER_SIZE, NO_OFFSET, Kind, timestamp
from sm.cowutil.vhd.geometry import MAX_GEOMETRY, SECTOR, geometry
from sm.cowutil.vhd.header import HEADER_SIZE, LOCATOR_COUNT, NO_PARENT_ID, UNUSED
from sm.cowutil.vhd.headers import Headers, batmap_header, has_batmap, load_headers
from sm.cowutil.vhd.layout import DATA_ALIGNMENT
from sm.cowutil.vhd.locator import ENCODINGS, header_name, parent_name
from sm.cowutil.vhd.tables import Tables, data_end, load_tables, read_bitmaps

CLOCK_SKEW = 1800
"""Seconds by which hosts may disagree before a time counts as in the future, as libvhd has it."""

CHUNK = 1 << 20


@dataclass
class _Findings:
    """Corruptions and leaks in the order found."""

    corruptions: list[str] = field(default_factory=list)
    leaks: list[str] = field(default_factory=list)

    def wrong(self, condition: bool, message: str) -> None:
        """Note a corruption where `condition` holds."""
        if condition:
            self.corruptions.append(message)

    def leak(self, condition: bool, message: str) -> None:
        """Note something harmless where `condition` holds."""
        if condition:
            self.leaks.append(message)


def examine(file: BlockFile, now: float) -> CheckReport:
    """Check `file` at Unix time `now`; raises only where it is no VHD at all or cannot be read."""
    findings = _Findings()
    try:
        headers = load_headers(file)
        _check_footer(file, headers, now, findings)
        if headers.sparse is not None:
            _check_header(file, headers, findings)
            _check_parent(file, headers, now, findings)
            tables = load_tables(file, headers)
            _check_space(file, headers, tables, findings)
            _check_spare_entries(file, headers, findings)
            _check_batmap(file, headers, tables, findings)
            _check_bits_behind(file, headers, tables, findings)
    except (ImageCorrupt, ImageUnsafe) as error:
        findings.corruptions.append(str(error))
    return CheckReport(file.path, tuple(findings.corruptions), tuple(findings.leaks))


def _check_footer(file: BlockFile, headers: Headers, now: float, found: _Findings) -> None:
    footer = headers.footer
    fixed = footer.kind is Kind.FIXED
    found.wrong(bool(footer.features & ~3), f"footer features {footer.features:#x} are unknown")
    found.wrong(fixed and footer.data_offset != NO_OFFSET, "footer of a fixed disk names a header")
    found.wrong(footer.timestamp > timestamp(now + CLOCK_SKEW), "footer time is in the future")
    version = footer.creator_version
    newer = footer.creator == CREATOR and version > 0x00010003
    found.wrong(newer, f"footer creator version {version:#x} is unknown")
    found.wrong(footer.saved_state > 1, f"footer saved state {footer.saved_state} is unknown")
    found.wrong(footer.unique_id == NO_PARENT_ID, "footer unique id is null")
    shape = footer.geometry or 0
    large = shape > geometry(footer.current_size) and shape != MAX_GEOMETRY
    found.wrong(large, f"footer geometry {shape:#x} is too large")
    end = (headers.file_size - 1) // SECTOR * SECTOR
    reserved = read(file, 0 if headers.copy_valid else end, FOOTER_SIZE)[86:]
    found.wrong(any(reserved), "footer reserved bytes are not zero")
    if fixed:
        return
    found.leak(not headers.copy_valid, "footer copy at byte 0 is not valid")
    if headers.end_footer is None:
        found.leak(True, "footer at the end is missing")
    else:
        found.leak(headers.end_footer != footer, "footer at the end is out of date")


def _check_header(file: BlockFile, headers: Headers, found: _Findings) -> None:
    found.leak(headers.from_spare, "header is torn; its spare copy is in use")
    if headers.from_spare:
        return
    raw = read(file, headers.footer.data_offset, HEADER_SIZE)
    found.wrong(raw[8:16] != b"\xff" * 8, "header data offset is not all ones")
    found.wrong(any(raw[60:64]) or any(raw[768:]), "header reserved bytes are not zero")
    for index in range(LOCATOR_COUNT):
        at = headers.header.locator_position(index) - headers.header.position
        unused = headers.header.locators[index] is None
        rest = raw[at : at + 24] if unused else raw[at + 12 : at + 16]
        found.wrong(any(rest), f"parent locator {index} has bytes that must be zero")


def _check_parent(file: BlockFile, headers: Headers, now: float, found: _Findings) -> None:
    header = headers.header
    used = [locator for locator in header.locators if locator is not None]
    if headers.footer.kind is not Kind.DIFFERENCING:
        linked = header.parent_id != NO_PARENT_ID or header.parent_timestamp or used
        named = bool(linked) or any(header.parent_name)
        found.leak(named, "a disk without parent still has the name of one")
        return
    late = header.parent_timestamp > timestamp(now + CLOCK_SKEW)
    found.wrong(late, "parent time is in the future")
    codes = [locator.code for locator in used]
    found.wrong(len(set(codes)) < len(codes), "two parent locators have the same code")
    for index in range(LOCATOR_COUNT):
        locator = header.locators[index]
        if locator is None:
            continue
        known = locator.code in ENCODINGS or locator.code in (b"Mac ", b"Wi2k", b"Wi2r")
        found.wrong(not known, f"parent locator {index} has the unknown code {locator.code!r}")
        outside = locator.offset < SECTOR or locator.offset + locator.space > headers.file_size
        found.wrong(outside, f"parent locator {index} lies outside the file")

    def fetch(offset: int, length: int) -> bytes:
        return read(file, offset, length)

    name = parent_name(file.path, header, fetch)
    found.wrong(header_name(header) != name, f"header and locators disagree on the parent {name!r}")


def _check_space(file: BlockFile, headers: Headers, tables: Tables, found: _Findings) -> None:
    end = data_end(headers, tables)
    if file.resizable:
        behind = headers.file_size - end - FOOTER_SIZE
        found.leak(behind >= SECTOR, f"{behind} bytes behind the last block are unused")
    found.wrong(
        headers.end_footer is not None and end > headers.file_size - FOOTER_SIZE + SECTOR - 1,
        "the last block reaches into the footer",
    )
    stride = headers.header.stride
    between = end - tables.metadata_end - len(tables.allocated) * (stride + DATA_ALIGNMENT)
    found.leak(between >= stride, f"at least {between} bytes between blocks are unused")


def _check_spare_entries(file: BlockFile, headers: Headers, found: _Findings) -> None:
    """Entries behind the virtual size must be unused, so that the disk can grow."""
    header = headers.header
    at = header.table_offset + 4 * headers.block_count
    end = header.table_offset + 4 * header.table_entries
    for start in range(at, end, CHUNK):
        raw = read(file, start, min(CHUNK, end - start))
        if raw.count(b"\xff") != len(raw):
            found.wrong(True, "table entries behind the virtual size are in use")
            return


def _check_batmap(file: BlockFile, headers: Headers, tables: Tables, found: _Findings) -> None:
    batmap = batmap_header(file, headers)
    footer = headers.footer
    if batmap is None:
        found.wrong(has_batmap(footer), "batmap is missing")
        return
    entries = headers.header.table_entries
    found.wrong(batmap.sectors * SECTOR * 8 < entries, "batmap is smaller than the table")
    if checksum_of(covered_part(file, headers, batmap)) != batmap.checksum:
        found.wrong(True, "batmap checksum does not fit the contents")
        return
    found.wrong(tables.stale_batmap, "batmap calls a block full that is not allocated")
    wrong = false_claim(file, headers, tables)
    found.wrong(wrong is not None, f"batmap calls block {wrong} full, which it is not")


def _check_bits_behind(file: BlockFile, headers: Headers, tables: Tables, found: _Findings) -> None:
    """Bits behind the end of the disk would show stale data when it grows."""
    block, within = divmod(headers.footer.current_size, headers.header.block_size)
    if within and tables.bat[block] != UNUSED:
        stored = read_bitmaps(file, headers, tables.bat[block : block + 1])
        behind = sector_bits(stored, headers.header.block_size)[0, within // SECTOR :]
        found.leak(bool(behind.any()), "sectors behind the end of the disk are held")
