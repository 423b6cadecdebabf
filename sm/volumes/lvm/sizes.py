"""How large volumes are made. Pure; all sizes in bytes."""

from __future__ import annotations

from enum import StrEnum

from sm.volumes.base import Room


class Allocation(StrEnum):
    """`THICK`: whoever may write to a volume has all the space that he may ever need.

    `THIN`: he has what is used and some more, and gets more while he writes.
    """

    THICK = "thick"
    THIN = "thin"


def rounded(size: int, extent: int) -> int:
    """`size` in whole extents, one at least."""
    return max(1, -(-size // extent)) * extent


def wanted(room: Room, allocation: Allocation, extent: int) -> int:
    """The size of a volume that must have `room`."""
    full = rounded(room.full, extent)
    if allocation is Allocation.THICK:
        return full
    return min(full, rounded(room.now, extent))
