"""A limit on bytes per second, as a bucket that fills with time and is emptied by copying."""

from __future__ import annotations

import time
from collections.abc import Callable

BURST_SECONDS = 0.5
"""What was not used stays good for so long."""

SLICE_SECONDS = 0.1
"""Longest sleep before whoever waits looks again whether it is to stop."""


def unlimited() -> int | None:
    """No limit."""
    return None


LEAST_SECONDS = 0.001
"""Shorter sleeps cost more than they are worth."""


class Throttle:
    """Keeps one copy to a limit, which is asked for anew whenever it waits."""

    def __init__(
        self,
        limit: Callable[[], int | None],
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._limit = limit
        self._clock = clock
        self._sleep = sleep
        self._level = 0.0
        self._filled = clock()

    def spend(self, count: int, check: Callable[[], None]) -> None:
        """Take `count` bytes out, and wait until the bucket is no longer overdrawn.

        `check` is called while it waits, and may raise.
        """
        if not self._fill():
            return
        self._level -= count
        while self._level < 0:
            limit = self._fill()
            if not limit:
                return
            if self._level < 0:
                check()
                self._sleep(min(SLICE_SECONDS, max(LEAST_SECONDS, -self._level / limit)))

    def _fill(self) -> int | None:
        """Add what has come since the last time; returns the limit, and forgets all without one."""
        limit, now = self._limit(), self._clock()
        passed, self._filled = now - self._filled, now
        if not limit:
            self._level = 0.0
            return None
        self._level = min(limit * BURST_SECONDS, self._level + passed * limit)
        return limit
