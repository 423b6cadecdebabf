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


def every(one_in: int, name: str) -> tuple[int, int]:
    """The first, from 0, and the step of one in so many of the matrix `name`; of all in a soak."""
    return (0, 1) if SOAK else (random.Random(f"{SEED} {name}").randrange(one_in), one_in)


def chosen(cases: Iterable[T], one_in: int, name: str) -> list[T]:
    """Of all cases of the matrix `name` one in so many, evenly; in a soak all. Never none."""
    known = list(cases)
    first, step = every(one_in, name)
    return known[first % max(1, min(step, len(known))) :: step]


def left_out(items: list[pytest.Item]) -> set[pytest.Item]:
    """Which of the collected tests this tier does not run.

    Those marked `world` belong to that tier alone. Of a parametrised test that is marked
    `one_in(n)`, one in so many of its cases runs, at least one; with `across="file"`, of all that
    are marked so in the file. In a soak all run.
    """
    if NAMED is None or SOAK:
        return set()
    others = {
        item for item in items if (item.get_closest_marker("world") is None) == (TIER is Tier.WORLD)
    }
    matrices: dict[tuple[str, int], list[pytest.Item]] = {}
    for item in items:
        marks = list(item.iter_markers("one_in"))
        if item not in others and marks:
            # That of a whole file counts also for tests which are marked where they come from.
            mark = next((each for each in marks if "across" in each.kwargs), marks[0])
            test = getattr(item, "originalname", item.name)
            within = "" if mark.kwargs.get("across") == "file" else test
            name = f"{item.path.relative_to(ROOT)} {within}"
            matrices.setdefault((name, mark.args[0]), []).append(item)
    for (name, one_in), cases in matrices.items():
        others |= set(cases) - set(chosen(cases, one_in, name))
    return others
