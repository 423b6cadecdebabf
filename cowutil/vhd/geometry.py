"""The cylinder, head and sector numbers of a footer, derived from the size.

Specification, appendix "CHS calculation". Checkers reject numbers larger than these, and some
readers take their product as the size unless the creator is one they trust.
"""

from __future__ import annotations

SECTOR = 512
MAX_CYLINDERS = 65535
MAX_HEADS = 16
MAX_GEOMETRY = MAX_CYLINDERS << 16 | MAX_HEADS << 8 | 255
"""The largest there is; qemu-img, told to keep an exact size, writes it into disks of any size."""


def geometry(size: int) -> int:
    """The geometry of a disk of `size` bytes as the footer holds it: u16, u8, u8 in one u32."""
    total = min(size // SECTOR, MAX_CYLINDERS * MAX_HEADS * 255)
    if total >= MAX_CYLINDERS * MAX_HEADS * 63:
        return _pack(total // 255 // MAX_HEADS, MAX_HEADS, 255)
    sectors = 17
    tracks = total // sectors
    heads = max(4, -(-tracks // 1024))
    if tracks >= heads * 1024 or heads > MAX_HEADS:
        sectors, heads = 31, MAX_HEADS
        tracks = total // sectors
    if tracks >= MAX_HEADS * 1024:
        sectors, heads = 63, MAX_HEADS
        tracks = total // sectors
    return _pack(tracks // heads, heads, sectors)


def _pack(cylinders: int, heads: int, sectors: int) -> int:
    return cylinders << 16 | heads << 8 | sectors
