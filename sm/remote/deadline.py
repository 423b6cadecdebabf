"""A time limit on all that is read from and written to a socket, however the other side drips."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress
from types import TracebackType
from typing import Self


class Deadline:
    """Shuts a socket down when its time is over, so that whoever waits for it gets an error.

    `passed` then says why. A context manager; `cancel` ends it early.
    """

    def __init__(self, connection: socket.socket, seconds: float) -> None:
        self.passed = False
        self._connection = connection
        self._timer = threading.Timer(seconds, self._pass)
        self._timer.daemon = True
        self._timer.start()

    def cancel(self) -> None:
        """Let the socket live on."""
        self._timer.cancel()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.cancel()

    def _pass(self) -> None:
        self.passed = True
        with suppress(OSError):  # it was closed in this moment
            # Not the method of a TLS socket: that would go on in plain text.
            socket.socket.shutdown(self._connection, socket.SHUT_RDWR)
