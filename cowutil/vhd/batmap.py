"""blktap's batmap: a bit for each block whose sectors are all held, so that no bitmap need be read.

It is a hint, written late or never: a clear bit says nothing. A set one is believed only when the
checksum covers it and fits, since a wrong one would hide the parent.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from sm.cowutil.vhd.block_file import BlockFile, read
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import BATMAP_VERSION, BatmapHeader
from sm.cowutil.vhd.headers import Headers, batmap_header
from sm.cowutil.vhd.layout import batmap_checked_bytes


def load_batmap(file: BlockFile, headers: Headers, count: int) -> npt.NDArray[np.bool_]:
    """The first `count` bits of the batmap, as far as they may be believed; else false."""
    bits = np.zeros(count, dtype=np.bool_)
    found = batmap_header(file, headers)
    if found is None or found.version != BATMAP_VERSION:
        return bits
    raw = covered_part(file, headers, found)
    if checksum_of(raw) != found.checksum:
        return bits
    known = np.unpackbits(np.frombuffer(raw, dtype=np.uint8)).astype(np.bool_)[:count]
    bits[: len(known)] = known
    return bits


def checksum_of(raw: bytes) -> int:
    """The same as `checksum`, for a batmap of up to hundreds of kilobytes."""
    return ~int(np.frombuffer(raw, dtype=np.uint8).sum(dtype=np.uint64)) & 0xFFFFFFFF


def covered_part(file: BlockFile, headers: Headers, header: BatmapHeader) -> bytes:
    """The bytes of the map that its checksum covers."""
    covered = batmap_checked_bytes(headers.footer.current_size)
    return read(file, header.offset, min(covered, header.sectors * SECTOR))
