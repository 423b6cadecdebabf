"""Comparing what was merged byte for byte before anything is deleted, where an admin wants that.

It reads all that was copied once more, on both sides. The tables are compared in any case.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from sm.cowutil.base import ImageRef, Layer
from sm.errors import SmError
from sm.repository import Repository

if TYPE_CHECKING:  # numpy is slow to import, and the CLI that only asks needs none of it
    from sm.cowutil.extents import Extents

SWITCH, CONTENT = "gc-verify", "content"
"""The key of the SR's other-config, and the value that asks for it."""

CHUNK = 4 << 20


def wanted(repository: Repository) -> bool:
    """Whether the SR asks for it."""
    switches = repository.pool.sr_by_uuid(repository.uuid).other_config
    return switches.get(SWITCH) == CONTENT


def compare(
    repository: Repository, merged: Sequence[ImageRef], target: ImageRef, *, before: Extents
) -> None:
    """Raise `SmError` unless `target` holds what `merged` (uppermost first) show together.

    `before`: what the target held before the merge and which covers theirs, when data went up.
    """
    with ExitStack() as stack:
        layers = [_open(stack, repository, image) for image in merged]
        goal = _open(stack, repository, target)
        taken = before
        for layer, image in zip(layers, merged, strict=True):
            own = layer.map().extents().minus(taken)
            taken = taken.union(own)
            for start, end in own:
                _require_equal(layer, goal, start, end, f"{image.path.name}, {target.path.name}")


def _open(stack: ExitStack, repository: Repository, image: ImageRef) -> Layer:
    return stack.enter_context(repository.formats.get(image.format).open_layer(image.path))


def _require_equal(one: Layer, other: Layer, start: int, end: int, names: str) -> None:
    left, right = memoryview(bytearray(CHUNK)), memoryview(bytearray(CHUNK))
    for at in range(start, end, CHUNK):
        count = min(CHUNK, end - at)
        one.read_into(at, left[:count])
        other.read_into(at, right[:count])
        if left[:count] != right[:count]:
            raise SmError(f"{names}: the content differs near byte {at}; nothing was deleted")
