"""Two clocks: one that only goes forward, for what a worker waits for, and that of the wall.

What others read, and what outlives the process, is in seconds since 1970. A clock of the wall may
jump; nothing that is waited for comes later or earlier by that.
"""

from __future__ import annotations

import time
from collections.abc import Callable

JUMP_SECONDS = 1.0
"""A smaller difference is left as it is, so that the same moment is told in the same way."""


class Clock:
    """Moments of this process, and what time of the wall they are."""

    def __init__(
        self,
        steady: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self._steady = steady
        self._wall = wall
        self._offset = wall() - steady()

    def now(self) -> float:
        """The present moment; only differences between moments mean anything."""
        now = self._steady()
        offset = self._wall() - now
        if abs(offset - self._offset) > JUMP_SECONDS:
            self._offset = offset
        return now

    def wall(self, moment: float) -> float:
        """A moment in seconds since 1970, as the clock of the wall goes now."""
        return moment + self._offset

    def moment(self, wall: float) -> float:
        """When the clock of the wall will show, or showed, so many seconds since 1970."""
        return wall - self._offset
