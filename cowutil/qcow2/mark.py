"""Writing the hidden mark into the header of an image, safe against a crash at any byte.

The mark is a header extension, which qemu keeps when it rewrites a header. Nobody else may have
the image open for writing meanwhile: a qemu that has would later write its own idea of the header.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt, ImageUnsupported
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.header import Header, read_header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.raw import open_image

EXTENSION_HEADER = 8


def write_mark(path: Path, hidden: bool) -> None:
    """Set the mark to `hidden`, durably; inserts the extension where there is none.

    A flip is one byte. An insertion is a few writes with a sync between them; a crash leaves the
    image as it was, or with the mark, and never without its backing name or other extensions.
    Raises `ImageUnsupported` when the first cluster has no room.
    """
    with Source(path) as source:
        header = read_header(source)
        writes = list(planned_writes(source, header, hidden))
    descriptor, _ = open_image(path, os.O_RDWR)
    try:
        for offset, data in writes:
            os.pwrite(descriptor, data, offset)
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def planned_writes(source: Source, header: Header, hidden: bool) -> Iterator[tuple[int, bytes]]:
    """Give (offset, bytes) in an order in which every prefix leaves a correct header."""
    value = b"\x01" if hidden else b"\x00"
    mark = header.extension(layout.EXT_HIDDEN)
    if mark is not None:
        if len(mark.data) != layout.EXT_HIDDEN_LENGTH:
            raise ImageCorrupt(source.path, "hidden mark", mark.offset, "is not 8 bytes long")
        if header.hidden != hidden:
            yield mark.offset, value
        return
    start = header.extensions_end
    data = start + EXTENSION_HEADER
    end_marker = data + layout.EXT_HIDDEN_LENGTH
    end = end_marker + EXTENSION_HEADER
    name_end = header.backing_offset + header.backing_length
    moved = max(end, name_end) if header.backing_offset else 0
    if not header.end_marker or max(end, moved + header.backing_length) > header.cluster_size:
        advice = "rewrite it with qemu-img convert"
        raise ImageUnsupported(
            source.path, "a header cluster without room for the hidden mark", advice
        )
    if header.backing_offset and header.backing_offset < end:
        # The name goes to its new place first, then the pointer to it (8 bytes, never torn).
        yield moved, source.read(header.backing_offset, header.backing_length, "backing name")
        yield layout.BACKING_OFFSET_FIELD, moved.to_bytes(8, "big")
    # Behind the present end marker nothing is read, so the new one is put there first.
    yield data, value + bytes(layout.EXT_HIDDEN_LENGTH - 1) + bytes(EXTENSION_HEADER)
    extension = layout.EXT_HIDDEN.to_bytes(4, "big") + layout.EXT_HIDDEN_LENGTH.to_bytes(4, "big")
    yield start, extension
