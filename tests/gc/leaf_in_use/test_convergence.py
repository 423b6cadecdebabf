"""When a merge of a busy leaf is given up, and how much may be left for a pause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sm.gc.leaf_in_use import convergence
from sm.gc.leaf_in_use.convergence import Convergence, Mirroring, Speed
from sm.gc.merges.merge import Postponed

MIB = 1 << 20


def rounds(*left: int) -> int:
    """How many rounds it takes to give up; 0 when that does not happen."""
    judge = Convergence("leaf")
    for number, each in enumerate(left, 1):
        try:
            judge.note(each)
        except Postponed as error:
            assert error.code == "busy-leaf"
            assert error.seconds > 0
            return number
    return 0


@pytest.mark.parametrize(
    ("left", "given_up"),
    [
        ((9, 8, 7, 6, 5, 4, 3, 2, 1), 0),
        ((5, 5, 5, 5), 4),
        ((5, 6, 7, 8), 4),
        ((9, 9, 9, 8, 9, 9, 9), 7),
        ((9, 9, 9, 8, 8, 8, 7, 7, 7), 0),
        ((99, 98, 97, 96, 95, 94, 93, 92, 91, 90), 10),
    ],
)
def test_rounds(left: tuple[int, ...], given_up: int) -> None:
    assert rounds(*left) == given_up


@given(st.lists(st.integers(0, 1 << 40), min_size=convergence.MOST_ROUNDS))
def test_it_always_ends(left: list[int]) -> None:
    assert 0 < rounds(*left) <= convergence.MOST_ROUNDS


def test_a_speed_is_learnt_from_copies_that_are_long_enough() -> None:
    speed = Speed()
    first = speed.budget(2.0)
    assert 0 < first < convergence.FIRST_SPEED * 2
    speed.learn(MIB - 1, 100.0)
    speed.learn(100 * MIB, 0.0)
    assert speed.budget(2.0) == first
    speed.learn(100 * MIB, 1.0)
    assert speed.budget(2.0) > first
    assert speed.budget(1.0) * 2 == speed.budget(2.0)
    # A copy of all that is left takes less than the pause, at the measured speed.
    assert speed.budget(2.0) / (100 * MIB) < 2.0


def mirror(*looks: tuple[int, int, float]) -> int:
    """How many looks (done, left, time) it takes to give up; 0 when that does not happen."""
    seen = Mirroring(Convergence("leaf"), Speed(), 0.0)
    for number, (done, left, now) in enumerate(looks, 1):
        try:
            seen.look(done, left, now)
        except Postponed:
            return number
    return 0


def test_a_mirror_has_rounds_of_what_was_left() -> None:
    # The first pass is no round to judge, however long it takes, and however often one looks.
    assert mirror(*((number, 1000 - number, float(number)) for number in range(999))) == 0
    # Each second everything was copied, and as much is left again.
    assert mirror(*((number * 100, 100, float(number)) for number in range(9))) == 5
    # As much, but within one second.
    assert mirror(*((number * 100, 100, number / 100) for number in range(90))) == 0
    # It gets less each time.
    assert mirror(*((number * 100, 100 - number * 10, float(number)) for number in range(9))) == 0
