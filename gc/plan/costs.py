"""What a piece of work costs, from the tables of the images; and the cheaper of its directions.

Of a run of images that become one, any may be the one that stays. What it shows of the disk need
not be copied: what is above it goes down into it, what is below goes up. So the one that shows most
is the cheapest. Where somebody has the images open, the lowest stays, because only that changes
nothing that he reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sm import users
from sm.coverage import union
from sm.gc.plan.planner import Action, Coalesce, Delete, LeafCoalesce, Merge
from sm.repository import Repository
from sm.tree import Forest

if TYPE_CHECKING:  # numpy is slow to import, and the CLI that only asks needs none of it
    from sm.cowutil.extents import Extents

SPARE_BYTES = 4 << 20
"""Kept free beyond what a merge is expected to take, for tables and for the file system."""


@dataclass(frozen=True, slots=True)
class Pull:
    """Copy what `images` (uppermost first) hold up into `into`, the image above them."""

    images: tuple[str, ...]
    into: str


@dataclass(frozen=True, slots=True)
class Cost:
    """Of one action, in bytes.

    `bytes_to_copy`: guest data that moves. `bytes_needed`: free space at the worst moment.
    `bytes_freed`: what the images that go take now.
    """

    bytes_to_copy: int = 0
    bytes_needed: int = 0
    bytes_freed: int = 0


def cost(repository: Repository, forest: Forest, action: Action) -> Cost:
    """What an action costs as things are; the tables of its images are read."""
    if isinstance(action, Delete):
        return Cost(bytes_freed=sum(forest[uuid].used for uuid in action.images))
    run, unknown = run_of(action), 0
    if isinstance(action, LeafCoalesce) and action.through is not None:
        # Tables that somebody writes to cannot be read; all of them may be new to the target.
        run, unknown = run[1:], forest[action.leaf].used
    held = extents_of(repository, forest, run)
    stays = _stays(repository, forest, run, held)
    growth = growth_of(held, stays) + unknown
    return Cost(
        bytes_to_copy=to_copy(held, stays) + unknown,
        bytes_needed=space_for(growth),
        bytes_freed=sum(forest[uuid].used for uuid in run if uuid != run[stays]) + unknown,
    )


def worst_moment(costs: Iterable[Cost]) -> int:
    """How much free space all of it wants at once, done one after the other. Never below 0.

    What an action writes stays; what it gives back is there for the next.
    """
    taken, most = 0, 0
    for each in costs:
        most = max(most, taken + each.bytes_needed)
        taken += each.bytes_needed - each.bytes_freed
    return most


def way(repository: Repository, forest: Forest, action: Merge) -> Merge | Pull:
    """How an action is best begun.

    Where not the lowest stays, first what is above goes down into what stays, so that it hides what
    need not be copied; then, as the next action, what is below goes up.
    """
    run = run_of(action)
    stays = _stays(repository, forest, run, extents_of(repository, forest, run))
    if stays == len(run) - 1:
        return action
    if stays == 0:
        return Pull(run[1:], run[0])
    if isinstance(action, LeafCoalesce):
        return LeafCoalesce(run[0], run[1:stays], run[stays])
    return Coalesce(run[:stays], run[stays])


def run_of(action: Merge) -> tuple[str, ...]:
    """The images of a merge that become one, uppermost first."""
    above = (action.leaf,) if isinstance(action, LeafCoalesce) else ()
    return (*above, *action.images, action.into)


def extents_of(repository: Repository, forest: Forest, run: Sequence[str]) -> list[Extents]:
    """What each image holds itself."""
    images = repository.images([forest[uuid] for uuid in run])
    return [repository.formats.get(ref.format).allocated_extents(ref.path) for ref in images]


def shown(held: Sequence[Extents]) -> list[int]:
    """How many bytes each image shows of the disk, from what each holds, uppermost first."""
    taken = union(())
    found = []
    for extents in held:
        found.append(extents.minus(taken).total)
        taken = taken.union(extents)
    return found


def cheapest(held: Sequence[Extents]) -> int:
    """Which image should stay: the one that shows most; of equals, the lowest."""
    most = shown(held)
    return max(range(len(most)), key=lambda index: (most[index], index))


def to_copy(held: Sequence[Extents], stays: int) -> int:
    """Bytes that move when the image `stays` is the one that stays."""
    return sum(shown(held)) - shown(held)[stays]


def growth_of(held: Sequence[Extents], stays: int) -> int:
    """Bytes that this image will hold and does not yet."""
    return union(held).minus(held[stays]).total


def space_for(growth: int) -> int:
    """Free bytes that an image needs to grow by so many guest bytes, tables included."""
    return growth + growth // 512 + SPARE_BYTES


def _stays(
    repository: Repository, forest: Forest, run: Sequence[str], held: Sequence[Extents]
) -> int:
    if users.above(repository, forest, run[-1]):
        return len(run) - 1
    return cheapest(held)
