"""Turns at changing what the process of a disk has open, where more than one of us may want to.

The lock of a disk is held for much longer than a change takes; whoever must hold its users at once,
because its volume is about to be full, cannot wait for that. So each change is also a turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import wraps
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

from sm.datapath.base import Disk
from sm.errors import Busy

SECONDS = 60.0
"""For the longest change: a pause waits for requests under way, and a chain is opened."""

POLL_SECONDS = 0.005


@contextmanager
def turn(folder: Path, disk: Disk) -> Iterator[None]:
    """Have the turn at a disk for the block; it cannot be taken twice. Raises `Busy`."""
    from filelock import FileLock, Timeout  # noqa: PLC0415 - slow to import

    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / f"{disk.vdi}.turn")
    try:
        lock.acquire(timeout=SECONDS, poll_interval=POLL_SECONDS)
    except Timeout as error:
        raise Busy(f"another process is at work on what serves {disk.vdi}") from error
    try:
        yield
    finally:
        lock.release()


class TakesTurns(Protocol):
    """What has methods that are `in_turn`."""

    def _turn(self, disk: Disk) -> AbstractContextManager[None]: ...


Self = TypeVar("Self", bound=TakesTurns)
More = ParamSpec("More")
Result = TypeVar("Result")


def in_turn(
    method: Callable[Concatenate[Self, Disk, More], Result],
) -> Callable[Concatenate[Self, Disk, More], Result]:
    """Have a method that changes a disk do so in its turn."""

    @wraps(method)
    def changed(self: Self, disk: Disk, /, *more: More.args, **named: More.kwargs) -> Result:
        with self._turn(disk):
            return method(self, disk, *more, **named)

    return changed
