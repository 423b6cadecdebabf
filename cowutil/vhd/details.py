"""What a VHD tells of itself beyond what every image has, as plain values."""

from __future__ import annotations

from collections.abc import Mapping

from sm.cowutil.base import Plain
from sm.cowutil.vhd.block_file import BlockFile
from sm.cowutil.vhd.footer import EPOCH
from sm.cowutil.vhd.headers import batmap_header, load_headers


def details(file: BlockFile) -> Mapping[str, Plain]:
    """Kind of disk, who made it and when (Unix time), and what its headers lack."""
    headers = load_headers(file)
    footer = headers.footer
    found: dict[str, Plain] = {
        "kind": footer.kind.name.lower(),
        "unique_id": footer.unique_id.hex(),
        "created": footer.timestamp + EPOCH,
        "creator": "".join(chr(c) if 32 <= c < 127 else "?" for c in footer.creator.rstrip(b"\0")),
        "creator_version": f"{footer.creator_version >> 16}.{footer.creator_version & 0xFFFF}",
        "original_size": footer.original_size,
        "end_footer": headers.end_footer is not None,
    }
    if headers.sparse is not None:
        found |= {
            "table_entries": headers.sparse.table_entries,
            "batmap": batmap_header(file, headers) is not None,
            "footer_copy": headers.copy_valid,
        }
    return found
