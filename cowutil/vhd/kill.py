"""Drop the data of an image, and keep its identity, its size and its link.

What it held reads as zero afterwards, or as the parent has it. A crash may leave any of its blocks
in place; nothing else can come to light, and the work may be repeated.
"""

from __future__ import annotations

from sm.cowutil.vhd.writer import ImageWriter


def kill_data(writer: ImageWriter) -> None:
    """Free all blocks, durably, and cut the file behind the metadata; nothing may be pending."""
    writer.clear_batmap()  # first: it must not call a block full that is not there
    headers = writer.headers
    unused = b"\xff" * (4 * headers.block_count)
    writer.file.write(headers.header.table_offset, unused)
    writer.file.flush()
    writer.reload()
    writer.seal()
