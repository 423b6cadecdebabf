"""How full the volume of a served leaf is, as its process says. Writes wait for room in there."""

from __future__ import annotations

import time
from pathlib import Path
from typing import ClassVar

from sm.datapath.base import Gauge, Level
from sm.datapath.vhd_nbd import control

POLL_SECONDS = 0.2
CALL_SECONDS = 5.0


class VhdNbdGauge(Gauge):
    """Asks the process behind the control socket `socket`."""

    holds: ClassVar[bool] = False

    def __init__(self, socket: Path) -> None:
        self._socket = socket

    def level(self) -> Level | None:
        """Ask."""
        answer = control.call(self._socket, {"do": "level"}, CALL_SECONDS)
        if answer["level"] is None:
            return None
        used, size = answer["level"]
        return Level(used, size, held=answer["waiting"] > 0)

    def wait(self, mark: int, seconds: float) -> None:
        """Let a moment pass: nothing fails meanwhile."""
        del mark
        time.sleep(min(seconds, POLL_SECONDS))

    def hold(self) -> None:
        """Nothing: writes wait by themselves."""

    def release(self) -> None:
        """Nothing: they go on as soon as the volume has room."""

    def close(self) -> None:
        """Nothing is open between two questions."""
