"""A part of many cases, or in a soak all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from tests.soak.rounds import SOAK

Case = TypeVar("Case")


def sampled(cases: Sequence[Case], first: int, step: int) -> Sequence[Case]:
    """Every so many of the cases from one on, which is counted on from the end to the beginning."""
    return cases if SOAK else cases[first % step :: step]
