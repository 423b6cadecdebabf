"""A gate that work passes through, and that can be shut once what is inside has finished."""

from __future__ import annotations

import time
from threading import Condition
from types import TracebackType


class Gate:
    """A context manager around each piece of work, for many threads; waits while it is shut."""

    def __init__(self) -> None:
        self._changed = Condition()
        self._inside = 0
        self._shut = False

    def __enter__(self) -> None:
        with self._changed:
            while self._shut:
                self._changed.wait()
            self._inside += 1

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._changed:
            self._inside -= 1
            if self._shut and self._inside == 0:
                self._changed.notify_all()

    def shut(self, seconds: float) -> None:
        """Let nothing more in, and wait until nothing is inside.

        TimeoutError, with the gate open again, when that takes more than `seconds`.
        """
        deadline = time.monotonic() + seconds
        with self._changed:
            self._shut = True
            while self._inside:
                left = deadline - time.monotonic()
                if left <= 0:
                    self._shut = False
                    self._changed.notify_all()
                    raise TimeoutError(f"{self._inside} requests did not finish in {seconds} s")
                self._changed.wait(left)

    def open(self) -> None:
        """Let everybody in."""
        with self._changed:
            self._shut = False
            self._changed.notify_all()
