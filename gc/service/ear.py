"""What wakes a collector: kicks, requests to work now, jobs that end, signals.

A datagram waits in the socket until it is taken out, and it is taken out before the collector
looks; so a kick between its last look and its sleep ends the sleep.
"""

from __future__ import annotations

import json
import os
import selectors
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

from sm.kick import short_address

LARGEST_MESSAGE = 4096

AT_REST = b"rest"
ENDED = b"ended"
"""What whoever asked for work is told: all that can be done is done, or nobody will do it."""


class Ear:
    """Waits on a datagram socket at `path`, and for `wake`. `parent` is a descriptor or None.

    When the other side of `parent` is closed, `orphaned` becomes true.
    """

    def __init__(self, path: Path, kicks: socket.socket, parent: int | None) -> None:
        self._kicks = kicks
        self._path = path
        self._inside, self._outside = socket.socketpair()
        self._inside.setblocking(False)
        self._outside.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(kicks, selectors.EVENT_READ)
        self._selector.register(self._inside, selectors.EVENT_READ)
        self._parent = parent
        if parent is not None:
            self._selector.register(parent, selectors.EVENT_READ)
        self.orphaned = False

    @classmethod
    @contextmanager
    def open(cls, path: Path, parent: int | None = None) -> Iterator[Self]:
        """Listen at `path` for the block; what lies there is left over: one listens at a time."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as kicks:
            with short_address(path) as address:
                kicks.bind(address)
            ear = cls(path, kicks, parent)
            try:
                yield ear
            finally:
                ear.close()
                path.unlink(missing_ok=True)

    def close(self) -> None:
        """Let go of everything but the socket."""
        self._selector.close()
        self._inside.close()
        self._outside.close()

    def wake(self) -> None:
        """End the wait, now or when it begins; may be called by any thread and signal handler."""
        with suppress(OSError):  # it is full of reasons to wake, or nobody waits any more
            self._outside.send(b"!")

    def wait(self, seconds: float) -> None:
        """Sleep until something happens, or so long."""
        for key, _ in self._selector.select(max(0.0, seconds)):
            if key.fileobj == self._parent and not os.read(key.fd, LARGEST_MESSAGE):
                self._selector.unregister(key.fileobj)
                self.orphaned = True

    def heard(self) -> list[bytes]:
        """Take out all messages; call it before looking at what they may be about."""
        with suppress(BlockingIOError):
            while self._inside.recv(LARGEST_MESSAGE):
                pass
        messages = []
        with suppress(BlockingIOError):
            while True:
                messages.append(self._kicks.recv(LARGEST_MESSAGE))
        return messages

    def answer(self, name: str, message: bytes) -> None:
        """Send to a socket beside ours; who asked may have gone."""
        with suppress(OSError), short_address(self._path.with_name(name)) as address:
            self._kicks.sendto(message, address)


def request(reply_to: str) -> bytes:
    """The message that asks a collector to work now, and to say when it is at rest.

    `reply_to` is the name of a socket in the folder of the collector's.
    """
    return json.dumps({"run": reply_to}).encode("utf-8")


def asked_by(message: bytes) -> str | None:
    """Who asks to work now; None for a mere kick, and for what nobody of us says."""
    try:
        name = json.loads(message)["run"]
    except (ValueError, TypeError, KeyError):
        return None
    return name if isinstance(name, str) and Path(name).name == name else None
