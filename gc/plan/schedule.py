"""Which planned work begins now. Pure: candidates and what runs go in, choices come out.

A deletion never waits behind a copy. Two pieces of work never touch one tree at once, but for a
deletion beside a copy, which the plan allows only where they have no image in common. Trees near
the limit of the length of a chain come before all others; then what is cheap, and waiting makes
everything cheaper, so that a large merge has its turn within hours.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import IntEnum

URGENT_DEPTH = 24
"""From this length of a chain on its tree is urgent; at 30 no snapshot can be made any more."""

AGEING_BYTES = 256 << 20
"""For each second that it has waited, work counts as so many bytes cheaper: 1 TiB in 70 minutes."""


class Kind(IntEnum):
    """What a piece of work does to the images."""

    RECOVER = 0
    DELETE = 1
    COPY = 2


@dataclass(frozen=True, slots=True)
class Candidate:
    """Planned work. `number` is the caller's own name for it.

    `images`: those that it changes. `tree`: all of its tree. `depth`: the longest chain of the
    tree. `cost`: bytes to copy. `since`: since when it is planned. `not_before`: when it may be
    tried, 0 for at once. Times in seconds.
    """

    number: int
    kind: Kind
    images: frozenset[str]
    tree: frozenset[str]
    depth: int = 0
    cost: int = 0
    since: float = 0.0
    not_before: float = 0.0


@dataclass(frozen=True, slots=True)
class Running:
    """Work under way; as a candidate."""

    kind: Kind
    images: frozenset[str]
    tree: frozenset[str]


def choose(
    candidates: Collection[Candidate],
    running: Collection[Running],
    *,
    copies: int,
    now: float,
) -> list[Candidate]:
    """What begins now, in that order, with `copies` copies at once in all."""
    chosen: list[Candidate] = []
    taken = list(running)
    # A deletion in a tree comes before a copy there: what it removes would be in the way.
    doomed = [each.tree for each in candidates if each.kind is Kind.DELETE and due(each, now)]
    for each in order(candidates, now):
        if due(each, now) and _fits(each, taken, doomed, copies):
            chosen.append(each)
            taken.append(Running(each.kind, each.images, each.tree))
    return chosen


def due(candidate: Candidate, now: float) -> bool:
    """Whether its time has come."""
    return candidate.not_before <= now


def order(candidates: Collection[Candidate], now: float) -> list[Candidate]:
    """All candidates, the most pressing first."""

    def key(each: Candidate) -> tuple[int, int, float, int]:
        urgency = each.depth if each.kind is Kind.COPY and each.depth >= URGENT_DEPTH else 0
        price = each.cost - max(0.0, now - each.since) * AGEING_BYTES
        return each.kind, -urgency, price, each.number

    return sorted(candidates, key=key)


def _fits(
    each: Candidate, taken: Sequence[Running], doomed: Sequence[frozenset[str]], copies: int
) -> bool:
    if any(not each.images.isdisjoint(other.images) for other in taken):
        return False
    if each.kind is Kind.DELETE:
        return all(other.kind is not Kind.DELETE for other in taken)
    if any(not each.tree.isdisjoint(other.tree) for other in taken):
        return False
    if each.kind is Kind.RECOVER:
        return True
    if any(not each.tree.isdisjoint(tree) for tree in doomed):
        return False
    return sum(other.kind is Kind.COPY for other in taken) < copies


def next_time(candidates: Collection[Candidate], now: float) -> float | None:
    """When the next candidate that must wait for its time may be tried."""
    return min((each.not_before for each in candidates if not due(each, now)), default=None)
