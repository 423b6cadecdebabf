"""Who an image's parent is, and the change of the link to it."""

from __future__ import annotations

from dataclasses import dataclass, replace

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageCorrupt, ImageUnsupported
from sm.cowutil.vhd.block_file import Access, BlockFile, Opener, read
from sm.cowutil.vhd.change import free_room, replace_header
from sm.cowutil.vhd.footer import timestamp
from sm.cowutil.vhd.header import NO_PARENT_ID, Header
from sm.cowutil.vhd.headers import Headers, load_headers, metadata_ranges
from sm.cowutil.vhd.locator import Spelling, one_locator, slot_size, spell_parent


@dataclass(frozen=True, slots=True)
class ParentIdentity:
    """What a child records of its parent.

    `name`: base name. `unique_id`: 16 bytes, zero for a raw parent. `virtual_size` in bytes.
    `modified`: Unix time of the last change of its file.
    """

    name: str
    unique_id: bytes
    virtual_size: int
    modified: float


def identify_parent(parent: ImageRef, open_file: Opener) -> ParentIdentity:
    """Read what a child must record of `parent`, which is not changed.

    `ImageUnsafe` where its name cannot be recorded.
    """
    spell_parent(parent.path, parent.path.name, 0)
    modified = parent.path.stat().st_mtime
    file = open_file(parent.path, Access.READ)
    try:
        if parent.format == "raw":
            return ParentIdentity(parent.path.name, NO_PARENT_ID, file.size(), modified)
        if parent.format != "vhd":
            raise ImageUnsupported(parent.path, f"{parent.format} below a VHD", "use VHD or raw")
        footer = load_headers(file).footer
    finally:
        file.close()
    if footer.unique_id == NO_PARENT_ID:
        raise ImageCorrupt(parent.path, "footer unique id", 68, "a null id means a raw parent")
    return ParentIdentity(parent.path.name, footer.unique_id, footer.current_size, modified)


def linked(header: Header, parent: ParentIdentity, spelling: Spelling, now: float) -> Header:
    """`header` with a link to `parent`, whose time is never after `now`: checkers refuse that."""
    return replace(
        header,
        parent_id=parent.unique_id,
        parent_timestamp=timestamp(min(parent.modified, now)),
        parent_name=spelling.parent_name,
        locators=spelling.locators,
    )


def without_parent(header: Header) -> Header:
    """`header` of an image that has no parent; its locators are gone."""
    bare = Header(header.table_offset, header.table_entries, header.block_size)
    return replace(bare, position=header.position)


def relink(file: BlockFile, headers: Headers, parent: ParentIdentity, now: float) -> bool:
    """Name `parent` in `headers`' image, durably and in one step; the file is open for writing.

    The new locators go into free space in front of the blocks, then one write of the header
    switches to them. A crash leaves the old or the new link. In an image by another program the
    space may have to come from the old locators: all but one are dropped first, which changes
    nothing for a reader. False when there is no space even so: see `growth.make_room`.
    """
    ranges = metadata_ranges(file, headers)
    limit = max(end for _, end in ranges)
    size = slot_size(file.path, parent.name)
    slot = free_room(headers, ranges, limit, size)
    if slot is None:
        headers = _drop_locators(file, headers)
        slot = free_room(headers, metadata_ranges(file, headers), limit, size)
    if slot is None:
        return False
    relink_at(file, headers, parent, slot, now)
    return True


def has_slot(file: BlockFile, headers: Headers, name: str) -> bool:
    """Whether `relink` finds space for locators of `name`; nothing is changed."""
    size = slot_size(file.path, name)
    limit = max(end for _, end in metadata_ranges(file, headers))
    bare = replace(headers, sparse=_with_one_locator(file, headers))
    return any(
        free_room(each, metadata_ranges(file, each), limit, size) is not None
        for each in (headers, bare)
    )


def _drop_locators(file: BlockFile, headers: Headers) -> Headers:
    header = _with_one_locator(file, headers)
    replace_header(file, headers, header)
    return replace(headers, sparse=header, from_spare=False)


def _with_one_locator(file: BlockFile, headers: Headers) -> Header:
    def fetch(offset: int, length: int) -> bytes:
        return read(file, offset, length)

    return one_locator(file.path, headers.header, fetch)


def relink_at(
    file: BlockFile, headers: Headers, parent: ParentIdentity, slot: int, now: float
) -> None:
    """The same with locators at byte `slot`, where `slot_size` bytes are free."""
    spelling = spell_parent(file.path, parent.name, slot)
    header = linked(headers.header, parent, spelling, now)
    file.write(slot, spelling.contents)
    replace_header(file, headers, header)
    file.flush()
