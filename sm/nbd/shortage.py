"""Writes for which a disk has no room at present, where it gets more while it is written.

Such a write is tried again until it goes through. Meanwhile it is outside of the gate, so that the
disk can be paused or closed as if there were no such write.
"""

from __future__ import annotations

import select
import socket
from threading import Lock

POLL_SECONDS = 0.1
"""How often such a write is tried again."""


class Shortage:
    """Counts them. Where nothing `grows`, a write without room fails instead."""

    def __init__(self, *, grows: bool) -> None:
        self.grows = grows
        self.waiting = 0
        """How many connections have a write that waits."""
        self._changing = Lock()

    def began(self) -> None:
        """A connection has such a write."""
        with self._changing:
            self.waiting += 1

    def ended(self) -> None:
        """It went through, or its client is gone."""
        with self._changing:
            self.waiting -= 1


def wait(peer: socket.socket) -> None:
    """Wait before the next try; ConnectionResetError when the client has gone."""
    poll = select.poll()
    poll.register(peer, select.POLLRDHUP)
    if poll.poll(POLL_SECONDS * 1000):
        raise ConnectionResetError("the client left while its write waited for room")
