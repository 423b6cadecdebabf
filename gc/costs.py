"""What an action of the collector costs and what it gives back, before it is done."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from sm.gc import merge
from sm.gc.planner import Action, Delete, LeafCoalesce, subject_of
from sm.repository import Repository
from sm.tree import Forest


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes: of guest data to copy, of free space that it wants meanwhile, and given back after."""

    bytes_to_copy: int
    bytes_needed: int
    bytes_freed: int


def cost(repository: Repository, forest: Forest, action: Action) -> Cost:
    """The cost of one action, from the tables of its images. Reads, and changes nothing.

    Raises `ImageError` or OSError when an image changes or goes away meanwhile.
    """
    freed = sum(forest[uuid].used for uuid in action.images if uuid in forest)
    if isinstance(action, Delete):
        return Cost(0, 0, freed)
    top = subject_of(action)
    if isinstance(action, LeafCoalesce):
        freed += forest[top].used
    chain = merge.chain_from(repository, forest, top)
    into = [node.uuid for node in forest.chain(top)].index(action.into)
    return Cost(
        merge.bytes_to_copy(repository, chain, into),
        merge.bytes_needed(repository, chain, into),
        freed,
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
