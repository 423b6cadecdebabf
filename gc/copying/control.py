"""What a running job is told, and what it tells: how far it is, how fast, and to stop.

It is the progress callback of whatever copies, so a copy hears of a stop within one piece of its
work. Whoever finishes what is copied calls it no more, and is not stopped.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from sm.cowutil.base import Progress, no_progress
from sm.gc.copying.throttle import Throttle, unlimited

SPEED_SECONDS = 5.0
"""The speed of a job is that of its last so many seconds."""


def nobody() -> None:
    """Nobody wants anything."""


class Control:
    """One job's line to its worker. Safe with the thread of the job and that of the worker.

    `limit` gives the bytes per second that this job may copy, or None; it is asked again and again.
    """

    def __init__(
        self,
        progress: Progress = no_progress,
        limit: Callable[[], int | None] = unlimited,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.done = 0
        self.total = 0
        self._progress = progress
        self._clock = clock
        self._limit = limit
        self._throttle = Throttle(limit, clock)
        self._stop: BaseException | None = None
        self._wanted: Callable[[], None] = nobody
        self.keeps_itself = False
        """Whether who copies keeps to the limit by itself, and need not be held back."""
        self._samples: deque[tuple[float, int]] = deque()

    def __call__(self, done: int, total: int) -> None:
        """Note `done` of `total` bytes; raises what `halt` said, waits where it is too fast."""
        moved = max(0, done - self.done)
        self.done, self.total = done, total
        self._progress(done, total)
        self.check()
        self._sample()
        if not self.keeps_itself:
            self._throttle.spend(moved, self.check)

    def halt(self, reason: BaseException) -> None:
        """Have the job end with `reason` at its next safe point; the first one said counts."""
        if self._stop is None:
            self._stop = reason

    def give_way(self, wanted: Callable[[], None]) -> None:
        """Ask at each safe point whether somebody wants the images: `wanted` then raises."""
        self._wanted = wanted

    def check(self) -> None:
        """Raise what `halt` said, if it did, or that somebody wants the images."""
        if self._stop is not None:
            raise self._stop
        self._wanted()

    @property
    def halted(self) -> bool:
        """Whether it was told to stop."""
        return self._stop is not None

    @property
    def bytes_per_second(self) -> int | None:
        """The limit for this job at this moment, for those who keep to it by themselves."""
        return self._limit()

    @property
    def speed(self) -> float:
        """Bytes per second in the last seconds; 0 where nothing was copied."""
        samples = list(self._samples)
        if len(samples) < 2:
            return 0.0
        (first, low), (last, high) = samples[0], samples[-1]
        return (high - low) / (last - first) if last > first else 0.0

    def _sample(self) -> None:
        now = self._clock()
        if self._samples and now - self._samples[-1][0] < SPEED_SECONDS / 20:
            return
        self._samples.append((now, self.done))
        while now - self._samples[0][0] > SPEED_SECONDS and len(self._samples) > 2:
            self._samples.popleft()
