"""Which tier of the tests runs, and what it takes of a matrix that is too long to be run whole.

`make test` proves the product: of long matrices it takes a sample. `make test-world` runs what is
marked `world`, and `make soak` all of all matrices. A sample is seeded by the commit: every run of
one commit takes the same, and the next commit takes another, so that all is seen over time.

Without SM_TIER, when somebody names tests to pytest, the loops inside of tests are as short as in
`make test`, and no test that was named is left out.
"""

from __future__ import annotations

import os
import random
import subprocess
from collections.abc import Iterable
from enum import Enum
from pathlib import Path
from typing import TypeVar

import pytest

T = TypeVar("T")

ROOT = Path(__file__).resolve().parents[2]


class Tier(Enum):
    """One of the three commands."""

    TEST = "test"
    WORLD = "world"
    SOAK = "soak"


NAMED = os.environ.get("SM_TIER")
TIER = Tier(NAMED or "test")
SOAK = TIER is Tier.SOAK
"""Whether there is time for all, where a test usually has a choice of it."""


def _seed() -> int:
    given = int(os.environ.get("SM_SEED", "0"))
    if given:
        return given
    if SOAK:
        return random.SystemRandom().randrange(1, 1 << 30)
    # Without a repository, as in an archive of the source, there is one sample.
    head = subprocess.run(
        ["git", "-c", f"safe.directory={ROOT}", "rev-parse", "HEAD"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    return int(head.stdout[:7], 16) if head.returncode == 0 else 1


SEED = _seed()
"""Of all that is chosen by chance: SM_SEED; by chance in a soak; else as the commit has it."""


def rounds(usual: int) -> int:
    """How many rounds of a random test are run: `usual`, or what SM_ROUNDS says."""
    return int(os.environ.get("SM_ROUNDS", usual))


def chosen(cases: Iterable[T], one_in: int, name: str) -> list[T]:
    """Of all cases of the matrix `name` one in so many, evenly; in a soak all. Never none."""
    every = list(cases)
    if SOAK or one_in <= 1 or not every:
        return every
    first = random.Random(f"{SEED} {name}").randrange(min(one_in, len(every)))
    return every[first::one_in]


def left_out(items: list[pytest.Item]) -> set[pytest.Item]:
    """Which of the collected tests this tier does not run.

    Those marked `world` belong to that tier alone. Of a parametrised test that is marked
    `one_in(n)` one in so many of its cases runs, at least one; all in a soak.
    """
    if NAMED is None or SOAK:
        return set()
    others = {
        item for item in items if (item.get_closest_marker("world") is None) == (TIER is Tier.WORLD)
    }
    matrices: dict[tuple[Path, str], list[pytest.Item]] = {}
    for item in items:
        if item not in others and item.get_closest_marker("one_in") is not None:
            name = getattr(item, "originalname", item.name)
            matrices.setdefault((item.path, name), []).append(item)
    for (path, name), cases in matrices.items():
        marker = cases[0].get_closest_marker("one_in")
        assert marker is not None
        others |= set(cases) - set(chosen(cases, marker.args[0], f"{path.stem} {name}"))
    return others
