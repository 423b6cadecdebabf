"""Which guest bytes images hold themselves, and the proof that a merge has lost none of them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.errors import SmError

if TYPE_CHECKING:  # numpy is slow to import, and the CLI that only asks needs none of it
    from sm.cowutil.extents import Extents


def union(parts: Iterable[Extents]) -> Extents:
    """What any of them holds."""
    from sm.cowutil.extents import Extents  # noqa: PLC0415 - see above

    return Extents.any_of(parts)


def held_by(formats: Formats, images: Iterable[ImageRef]) -> Extents:
    """The guest bytes that any of some images holds itself."""
    return union(formats.get(image.format).allocated_extents(image.path) for image in images)


def prove(formats: Formats, target: ImageRef, held: Extents) -> None:
    """Raise `SmError` unless the tables say that the target now holds all of `held`."""
    missing = held.minus(held_by(formats, [target]))
    if len(missing):
        first = next(iter(missing))
        raise SmError(
            f"{target.path.name} lacks {missing.total} bytes after the merge, the first ones at"
            f" {first[0]}; nothing was deleted"
        )
