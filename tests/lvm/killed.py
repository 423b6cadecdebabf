"""Killing work on a volume group at each of its changes: each command of LVM, each record."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from sm.volumes.lvm import name_volume, record_volume
from sm.volumes.lvm.blocks import write_blocks
from sm.volumes.lvm.commands import Lvm
from tests.support.tiers import every

Work = Callable[[], object]


def moments(one_in: int = 1, name: str = "") -> Iterator[tuple[int, bool]]:
    """Each change by its number, from 1: just before it, then just after it.

    With a name of the work, only one in so many changes; all in a soak. With 2 of what lies between
    two changes either the beginning or the end is left out.
    """
    first, step = every(one_in, name)
    numbers = itertools.count(1 + first, step)
    return ((number, after) for number in numbers for after in (False, True))


def killing(number: int, *, after: bool) -> Callable[[object], None]:
    """What prepares a child for that."""
    return lambda _: kill_at(number, after=after)


def kill_at(number: int, *, after: bool) -> None:
    """Have this process killed at its change of that number."""
    count = itertools.count(1)

    def counted(change: Callable[..., Any]) -> Callable[..., Any]:
        def done(*arguments: Any, **named: Any) -> Any:
            now = next(count) == number
            if now and not after:
                os.kill(os.getpid(), signal.SIGKILL)
            result = change(*arguments, **named)
            if now:
                os.kill(os.getpid(), signal.SIGKILL)
            return result

        return done

    mock.patch.object(Lvm, "change", counted(Lvm.change)).start()
    for module in (record_volume, name_volume):
        mock.patch.object(module, "write_blocks", counted(write_blocks)).start()


def killed(work: Work, number: int, *, after: bool) -> bool:
    """Do the work in a child that is killed at a change; False when it came to its end before."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            kill_at(number, after=after)
            work()
            status = 0
        finally:
            os._exit(status)
    _, ended = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(ended)
    assert code in (0, -signal.SIGKILL), "the work failed in the child"
    return code != 0
