"""When room is asked for, and when users are held: pure, and a simulated writer and master."""

from __future__ import annotations

import random
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sm.datapath.base import Level
from sm.thin.marks import (
    REACTION_SECONDS,
    RETRY_SECONDS,
    Asking,
    Marks,
    Trouble,
    plan,
    refused,
)

MIB = 1 << 20
SPARE = 256 * MIB
MARKS = Marks(SPARE)
FULL = 10_000 * MIB
EXTENT = 4 * MIB
STEP = 0.01


def at(left: int, *, held: bool = False, size: int = 1000 * MIB) -> Level:
    """A level with so much left."""
    return Level(size - left, size, held)


def test_the_marks() -> None:
    assert (MARKS.low, MARKS.critical) == (192 * MIB, 128 * MIB)
    assert MARKS.pace * REACTION_SECONDS + MARKS.under_way == MARKS.critical


def test_with_enough_left_nothing_is_done() -> None:
    found = plan(at(192 * MIB), FULL, MARKS, Asking(), 0)
    assert (found.hold, found.release, found.ask) == (False, False, 0)
    assert found.wake == (1000 - 192) * MIB


def test_at_the_low_mark_the_master_is_asked_once() -> None:
    level = at(191 * MIB)
    found = plan(level, FULL, MARKS, Asking(), 0)
    assert found.ask == level.used + SPARE
    assert not found.hold
    assert found.wake == (1000 - 128) * MIB
    assert plan(level, FULL, MARKS, Asking(under_way=True), 0).ask == 0


def test_at_the_critical_mark_users_are_held_until_there_is_room() -> None:
    assert plan(at(127 * MIB), FULL, MARKS, Asking(under_way=True), 0).hold
    held = plan(at(127 * MIB, held=True), FULL, MARKS, Asking(under_way=True), 0)
    assert (held.hold, held.release) == (False, False)
    assert plan(at(128 * MIB, held=True), FULL, MARKS, Asking(), 0).release


def test_what_has_all_that_it_can_need_is_left_alone() -> None:
    found = plan(at(0), 1000 * MIB, MARKS, Asking(), 0)
    assert (found.hold, found.release, found.ask) == (False, False, 0)
    assert plan(at(0, held=True), 1000 * MIB, MARKS, Asking(), 0).release
    assert plan(at(10 * MIB), 1001 * MIB, MARKS, Asking(), 0).ask == 1001 * MIB


def test_for_want_of_space_less_is_asked_for_at_once_and_then_again_and_again() -> None:
    level = at(100 * MIB, held=True)
    first = refused(Asking(), Trouble.NO_SPACE, 5.0)
    assert plan(level, FULL, MARKS, first, 5.0).ask == level.used + MARKS.low
    second = refused(replace(first, under_way=True), Trouble.NO_SPACE, 5.5)
    assert plan(level, FULL, MARKS, second, 5.5 + RETRY_SECONDS - 0.1).ask == 0
    assert plan(level, FULL, MARKS, second, 5.5 + RETRY_SECONDS).ask == level.used + MARKS.low


def test_without_an_answer_the_same_is_asked_for_later() -> None:
    asking = refused(Asking(), Trouble.NO_ANSWER, 5.0)
    level = at(150 * MIB)
    assert plan(level, FULL, MARKS, asking, 5.0).ask == 0
    assert plan(level, FULL, MARKS, asking, 5.0 + RETRY_SECONDS).ask == level.used + SPARE


@dataclass
class Simulated:
    """A writer at full pace, a master of a group with `free` bytes, and a watcher that is late."""

    used: int
    size: int
    free: int
    dice: random.Random
    held: bool = False
    asking: Asking = field(default_factory=Asking)
    request: tuple[float, int] | None = None
    act_at: float | None = None
    failed: bool = False

    def step(self, now: float, answer_seconds: float) -> None:
        """A hundredth of a second."""
        if not self.held:
            self.used += int(MARKS.pace * STEP)
            self.failed |= self.used > self.size and self.size < FULL
        if self.request is not None and now >= self.request[0]:
            self._answer(now)
        found = plan(Level(self.used, self.size, self.held), FULL, MARKS, self.asking, now)
        if not (found.hold or found.release or found.ask):
            self.act_at = None
        elif self.act_at is None:
            # From seeing to doing: less than the reaction that the marks are made for.
            self.act_at = now + self.dice.uniform(0, REACTION_SECONDS - 3 * STEP)
        elif now >= self.act_at:
            if found.hold:
                self.used += MARKS.under_way
                self.failed |= self.used > self.size and self.size < FULL
            self.held = (self.held or found.hold) and not found.release
            if found.ask:
                self.asking = replace(self.asking, under_way=True)
                self.request = (now + answer_seconds, found.ask)

    def _answer(self, now: float) -> None:
        assert self.request is not None
        need = -(-(self.request[1] - self.size) // EXTENT) * EXTENT
        self.request = None
        if need > self.free:
            self.asking = refused(self.asking, Trouble.NO_SPACE, now)
            return
        self.size += need
        self.free -= need
        self.asking = Asking()


@given(st.integers(0, 1 << 30), st.floats(0, 3), st.integers(0, 3000))
def test_a_writer_at_full_pace_never_fails(seed: int, answer_seconds: float, free: int) -> None:
    """However slow the master answers, and however little there is."""
    writer = Simulated(0, SPARE, free * MIB, random.Random(seed))
    for number in range(2500):
        writer.step(number * STEP, answer_seconds)
    # Between an answer and the next request it stands for no longer than the watcher is late.
    for number in range(2500, 2500 + int(REACTION_SECONDS / STEP)):
        if not writer.held or writer.request or writer.asking.trouble is not Trouble.NONE:
            break
        writer.step(number * STEP, answer_seconds)
    assert not writer.failed
    if writer.held and writer.request is None:
        assert writer.asking.trouble is Trouble.NO_SPACE
        assert writer.free < SPARE


@pytest.mark.parametrize("answer_seconds", [0.1, 1.0])
def test_when_space_is_freed_it_goes_on(answer_seconds: float) -> None:
    writer = Simulated(0, SPARE, 0, random.Random(1))
    for number in range(1000):
        writer.step(number * STEP, answer_seconds)
    stopped = writer.used
    assert writer.held
    writer.free = 512 * MIB
    for number in range(1000, 2000):
        writer.step(number * STEP, answer_seconds)
    assert writer.used > stopped
    assert not writer.failed
