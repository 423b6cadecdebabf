"""Where an image ends on a volume: its last footer is in the last sector, wherever that is.

The copy of the footer at byte 0 counts, so that a volume may be cut or extended, and the footer at
the new end be written late or not at all: readers find what they need. What lies behind the old end
of an extended volume is somebody's former data and may look like a footer, even of another kind of
disk; therefore that place is blanked before anything else is looked at.
"""

from __future__ import annotations

from sm.cowutil.errors import SizeOutOfRange
from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.footer import COOKIE, FOOTER_SIZE
from sm.cowutil.vhd.headers import load_headers
from sm.cowutil.vhd.tables import data_end, load_tables
from sm.cowutil.vhd.writer import ImageWriter


def used_size(file: BlockFile) -> int:
    """The bytes that the image needs at least."""
    headers = load_headers(file)
    if headers.sparse is None:
        return headers.footer.current_size + FOOTER_SIZE
    return data_end(headers, load_tables(file, headers)) + FOOTER_SIZE


def fit(file: BlockFile, size: int) -> None:
    """As `ImageFormat.fit`; only for a volume, which `size` is not beyond the end of.

    A crash leaves a footer where it was not looked for, or none at the end; the copy counts.
    """
    present = file.size()
    if file.resizable or size > present:
        raise SizeOutOfRange(file.path, size, 0, present)
    if size == present:
        _blank_end(file)
        ImageWriter(file)  # opening it puts the footer where it belongs
        return
    headers = load_headers(file)
    needed = used_size(file)
    if size < needed:
        raise SizeOutOfRange(file.path, size, needed, present)
    file.write(size - FOOTER_SIZE, headers.footer.pack())
    file.flush()


def _blank_end(file: BlockFile) -> None:
    """Blank the last sector unless it is the same as the copy at byte 0, or there is no copy."""
    end = file.size() - FOOTER_SIZE
    copy = read(file, 0, FOOTER_SIZE)
    if read(file, end, FOOTER_SIZE) == copy or copy[: len(COOKIE)] != COOKIE:
        return
    file.write(end, bytes(FOOTER_SIZE))
    file.flush()
