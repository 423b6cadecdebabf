"""The 512-byte footer: what every VHD ends with, and what a sparse one also begins with.

Specification, "Hard Disk Footer Format"; byte 85 (hidden) is blktap's, inside the reserved space.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt, ImageNotRecognised, ImageUnsupported
from sm.cowutil.vhd.geometry import SECTOR, geometry

FOOTER_SIZE = 512
COOKIE = b"conectix"
POISON = b"v_poison"
NO_OFFSET = (1 << 64) - 1
FORMAT_VERSION = 0x00010000
FEATURE_TEMPORARY = 1
FEATURE_RESERVED = 2
CREATOR = b"tap\0"
CREATOR_VERSION = 0x00010003
EPOCH = 946684800
"""2000-01-01 00:00 UTC as a Unix time; footers count seconds from there."""

MAX_VIRTUAL_SIZE = 2040 << 30
"""What every known reader accepts; the format itself ends 8 GiB later."""

_LAYOUT = struct.Struct(">8sIIQI4sI4sQQIII16sBB")
TYPE_OFFSET = 60
_CHECKSUM_OFFSET = 64
_HIDDEN_OFFSET = 85


class Kind(IntEnum):
    """The type field: how guest bytes are stored."""

    FIXED = 2
    DYNAMIC = 3
    DIFFERENCING = 4


@dataclass(frozen=True, slots=True)
class Footer:
    """The fields of a footer. Sizes and offsets in bytes, `timestamp` in seconds since 2000."""

    kind: Kind
    current_size: int
    original_size: int
    data_offset: int
    timestamp: int
    unique_id: bytes
    hidden: bool = False
    features: int = FEATURE_RESERVED
    creator: bytes = CREATOR
    creator_version: int = CREATOR_VERSION
    creator_system: bytes = bytes(4)
    saved_state: int = 0
    geometry: int | None = None
    """As stored; None where it is to follow from the size."""

    def pack(self) -> bytes:
        """The 512 bytes as they go to disk, with checksum."""
        shape = geometry(self.current_size) if self.geometry is None else self.geometry
        raw = bytearray(FOOTER_SIZE)
        _LAYOUT.pack_into(
            raw,
            0,
            COOKIE,
            self.features,
            FORMAT_VERSION,
            self.data_offset,
            self.timestamp,
            self.creator,
            self.creator_version,
            self.creator_system,
            self.original_size,
            self.current_size,
            shape,
            self.kind,
            0,
            self.unique_id,
            self.saved_state,
            self.hidden,
        )
        struct.pack_into(">I", raw, _CHECKSUM_OFFSET, checksum(raw))
        return bytes(raw)


def checksum(data: bytes | bytearray, stored: int = 0) -> int:
    """One's complement of the sum of all bytes, without those of a `stored` checksum in `data`."""
    return ~(sum(data) - sum(stored.to_bytes(4, "big"))) & 0xFFFFFFFF


def timestamp(unix_time: float) -> int:
    """`unix_time` as the format counts: whole seconds since 2000, never negative."""
    return min(max(0, int(unix_time) - EPOCH), 0xFFFFFFFF)


def unpack_footer(path: Path, raw: bytes, offset: int) -> Footer:
    """The footer in `raw`, which was read at byte `offset` of the image.

    511 bytes are as good as 512: early Microsoft tools wrote the last byte not at all. Wrong
    cookie: `ImageNotRecognised`. Poisoned by an unfinished resize: `ImageUnsupported`. Anything
    else wrong: `ImageCorrupt`.
    """
    if raw[:8] == POISON:
        raise ImageUnsupported(
            path,
            "the cookie v_poison, the mark of an interrupted journaled resize",
            "replay the resize journal with the tool that wrote it",
        )
    if len(raw) < FOOTER_SIZE - 1 or raw[:8] != COOKIE:
        raise ImageNotRecognised(path, f"no VHD footer at byte {offset}")
    raw = raw.ljust(FOOTER_SIZE, b"\0")
    (
        _,
        features,
        version,
        data_offset,
        timestamp,
        creator,
        creator_version,
        creator_system,
        original_size,
        current_size,
        shape,
        kind,
        stored,
        unique_id,
        saved_state,
        hidden,
    ) = _LAYOUT.unpack_from(raw)

    def refuse(field: str, at: int, problem: str) -> ImageCorrupt:
        return ImageCorrupt(path, f"footer {field}", offset + at, problem)

    if not _checksum_fits(raw, stored, creator, creator_version):
        raise refuse("checksum", _CHECKSUM_OFFSET, "does not fit the contents")
    if version != FORMAT_VERSION:
        raise refuse("version", 12, f"{version:#x} is unknown")
    if not features & FEATURE_RESERVED:
        raise refuse("features", 8, f"{features:#x} lacks the bit that is always set")
    if kind not in (Kind.FIXED, Kind.DYNAMIC, Kind.DIFFERENCING):
        raise refuse("type", TYPE_OFFSET, f"{kind} is unknown")
    if current_size == 0 or current_size % SECTOR:
        raise refuse("current size", 48, f"{current_size} is not a positive count of sectors")
    if current_size > MAX_VIRTUAL_SIZE:
        raise refuse("current size", 48, f"{current_size} is above {MAX_VIRTUAL_SIZE}")
    if hidden > 1:
        raise refuse("hidden", _HIDDEN_OFFSET, f"{hidden} is neither 0 nor 1")
    return Footer(
        Kind(kind),
        current_size,
        original_size,
        data_offset,
        timestamp,
        unique_id,
        bool(hidden),
        features,
        creator,
        creator_version,
        creator_system,
        saved_state,
        shape,
    )


def _checksum_fits(raw: bytes, stored: int, creator: bytes, version: int) -> bool:
    if checksum(raw, stored) == stored:
        return True
    if creator != CREATOR or version > 0x00010001:
        return False
    # Early blktap set the hidden byte without renewing the checksum.
    unhidden = raw[:_HIDDEN_OFFSET] + b"\0" + raw[_HIDDEN_OFFSET + 1 :]
    return checksum(unhidden, stored) == stored
