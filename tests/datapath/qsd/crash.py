"""Our own process killed on purpose at a step of what it has the daemon do."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator, Mapping
from itertools import count
from pathlib import Path
from typing import Any

from sm.datapath.base import Disk
from sm.datapath.qsd.datapath import QsdDatapath
from sm.datapath.qsd.qmp import Qmp

Action = Callable[[QsdDatapath], object]


class Stopped(Exception):
    """Here the process that asks is gone."""


class StopBefore(Qmp):
    """A connection of somebody else's, on which one command is never sent."""

    def __init__(self, qmp: Qmp, command: str) -> None:
        self._qmp = qmp
        self._command = command

    def call(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command == self._command:
            raise Stopped
        return self._qmp.call(command, arguments)


class _Mortal(Qmp):
    """Ends its process before or after the command that `steps` has come to `point` at.

    Only commands that change something are counted.
    """

    def __init__(self, path: Path, steps: Iterator[int], point: int) -> None:
        super().__init__(path)
        self._steps = steps
        self._point = point

    def call(self, command: str, arguments: Mapping[str, object] | None = None) -> Any:
        if command.startswith("query-"):
            return super().call(command, arguments)
        self._step()
        answer = super().call(command, arguments)
        self._step()
        return answer

    def _step(self) -> None:
        if next(self._steps) == self._point:
            os.kill(os.getpid(), signal.SIGKILL)


class _MortalDatapath(QsdDatapath):
    def __init__(self, folder: Path, point: int) -> None:
        super().__init__(folder)
        self._point = point
        self._steps = count()

    def _qmp(self, disk: Disk) -> Qmp:
        return _Mortal(self._socket(disk, self.control_suffix), self._steps, self._point)


def killed_at(point: int, folder: Path, action: Action) -> bool:
    """Whether a child was killed at its step number `point`; it ended well before that if not."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            action(_MortalDatapath(folder, point))
            code = 0
        finally:
            # Whatever was raised: the rest of the test is the parent's.
            os._exit(code)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return True
    assert os.WEXITSTATUS(status) == 0
    return False
