"""Whether what a disk in use still has to be copied gets less, and how fast copying goes. Pure."""

from __future__ import annotations

from sm.gc.merges.merge import Postponed
from sm.hosts.leaf_switch import WORK_SHARE

MOST_ROUNDS = 10
WITHOUT_PROGRESS = 3
"""So many rounds in a row, none of which left less than the best before, and it is given up."""

FIRST_SPEED = 20 << 20
"""Bytes per second, until it is known."""

MEASURED_BYTES = 1 << 20
"""So much must have been copied for a speed to be worth anything."""

MARGIN = 2.0
"""So many times faster than it must be for the rest to be copied in a pause, it has to be."""

ROUND_SECONDS = 1.0
"""The shortest round of a mirror: what is left from one moment to the next says nothing."""


class Convergence:
    """Rounds, each of which leaves something to copy; `Postponed` when there is no hope."""

    def __init__(self, leaf: str) -> None:
        self._leaf = leaf
        self._smallest: int | None = None
        self._rounds = 0
        self._idle = 0

    def note(self, left: int) -> None:
        """Judge a round that left so many bytes."""
        self._rounds += 1
        if self._smallest is None or left < self._smallest:
            self._smallest, self._idle = left, 0
        else:
            self._idle += 1
        if self._idle >= WITHOUT_PROGRESS or self._rounds >= MOST_ROUNDS:
            raise Postponed(
                "busy-leaf",
                f"VDI {self._leaf} is written faster than it can be merged: after {self._rounds}"
                f" rounds {left} bytes were left, {self._smallest} at best",
            )


class Speed:
    """How many bytes are copied in a second: at first an assumption, then as measured."""

    def __init__(self) -> None:
        self.value = float(FIRST_SPEED)

    def learn(self, copied: int, seconds: float) -> None:
        """Take the speed of one copy, if it was long enough to tell."""
        if copied >= MEASURED_BYTES and seconds > 0:
            self.value = copied / seconds

    def budget(self, pause: float) -> int:
        """How many bytes may be left for a pause of so many seconds."""
        return int(self.value * pause * WORK_SHARE / MARGIN)


class Mirroring:
    """What is seen of a mirror, which has no rounds of its own; `began` by the caller's clock.

    A round ends when as much was copied as there was left when it began.
    """

    def __init__(self, convergence: Convergence, speed: Speed, began: float) -> None:
        self._convergence = convergence
        self._speed = speed
        self._began = began
        self._round: tuple[float, int, int] | None = None

    def look(self, done: int, left: int, now: float) -> None:
        """Take note of how far it is, in bytes; raises `Postponed` when there is no hope."""
        self._speed.learn(done, now - self._began)
        if self._round is not None:
            since, before, had = self._round
            if done - before < had or now - since < ROUND_SECONDS:
                return
            self._convergence.note(left)
        self._round = (now, done, left)
