"""A wall clock that is wrong, for processes: also while they run, and right again."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

from tests.support.outside.shared import shared

MICROSECOND = timedelta(microseconds=1)


class _State(ctypes.Structure):
    _fields_ = [("nanoseconds", ctypes.c_int64)]


class WrongClock:
    """The clock of all processes that have `environment`, and of all that these start."""

    def __init__(self, state: _State, environment: dict[str, str]) -> None:
        self.environment = environment
        self._state = state

    def shift(self, **amount: float) -> None:
        """From now on the clock is wrong by so much, as `timedelta` takes it: `days=365`."""
        self._state.nanoseconds = timedelta(**amount) // MICROSECOND * 1000

    def right(self) -> None:
        """From now on the clock is right."""
        self._state.nanoseconds = 0


@contextmanager
def wrong_clock() -> Iterator[WrongClock]:
    """A clock that is right, until it is shifted."""
    with shared("SM_TEST_CLOCK", _State) as (state, environment):
        clock = WrongClock(state, environment)
        try:
            yield clock
        finally:
            clock.right()
