"""One tapdisk's control socket: a connection for each call, and a deadline on each.

The server takes one request per connection and at most ten connections, and keeps idle ones for
ever; so none is kept. PID, LIST and STATS are answered at once; all other requests wait for the one
before them. An error comes as `Kind.ERROR`, or in the usual answer: both are `Refused`.
"""

from __future__ import annotations

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from sm.datapath.base import OutcomeUnknown, TapdiskFailed
from sm.datapath.tapdisk import wire
from sm.datapath.tapdisk.wire import Flag, Image, Kind, Listed, Progress

LONGEST_STATISTICS = 1 << 20
"""Bytes; a chain of 30 images takes 10 KiB."""

CANCEL_AT_ONCE = 0
"""Flags of CANCEL: the answer does not wait for the end of the job."""


class Refused(TapdiskFailed):
    """Tapdisk answered with an error; `number` is its errno."""

    def __init__(self, asked: str, number: int, message: str = "") -> None:
        said = f" ({message})" if message else ""
        super().__init__(f"tapdisk refuses {asked}: {os.strerror(number)}{said}")
        self.number = number


class Control:
    """Calls to one process. Each raises `Refused`, or `OutcomeUnknown` where no answer comes.

    `seconds` is the deadline of a call that is not given another.
    """

    def __init__(self, path: Path, seconds: float) -> None:
        self._path = path
        self._seconds = seconds

    def pid(self) -> int:
        """The process that answers."""
        return wire.pid(self._call(Kind.PID))

    def attach(self, minor: int) -> None:
        """Take the minor's marker."""
        self._do(Kind.ATTACH, minor)

    def detach(self, minor: int) -> None:
        """Let go of the marker; after its last VBD the process ends."""
        self._do(Kind.DETACH, minor)

    def open(self, minor: int, argument: str, *, read_only: bool, seconds: float) -> Image:
        """Open `type:/path` and all its parents, and start the NBD servers."""
        flags = Flag.READ_ONLY if read_only else 0
        message = wire.request(Kind.OPEN, minor, text=argument, flags=flags)
        return wire.image(self._exchange(Kind.OPEN, message, seconds))

    def close(self, minor: int, seconds: float) -> None:
        """Stop NBD, end a commit, close all images."""
        self._do(Kind.CLOSE, minor, seconds=seconds)

    def pause(self, minor: int, seconds: float) -> None:
        """Freeze the users, finish what is under way, end a commit, close all images."""
        self._do(Kind.PAUSE, minor, seconds=seconds)

    def resume(self, minor: int, argument: str, seconds: float) -> None:
        """Open `type:/path` and all its parents anew, and let the users go on."""
        self._do(Kind.RESUME, minor, text=argument, seconds=seconds)

    def disk_info(self, minor: int) -> Image:
        """The length of the disk; also while it is paused."""
        return wire.image(self._call(Kind.DISK_INFO, minor))

    def commit(self, minor: int, path: str) -> None:
        """Begin to merge the image that the chain refers to as `path`."""
        self._do(Kind.COMMIT, minor, text=path)

    def query(self, minor: int) -> Progress:
        """How the commit stands. An end is told once, and then forgotten by tapdisk."""
        return wire.progress(self._call(Kind.QUERY, minor))

    def cancel(self, minor: int) -> None:
        """Ask the commit to stop."""
        self._do(Kind.CANCEL, minor, flags=CANCEL_AT_ONCE)

    def list(self) -> list[Listed]:
        """Every VBD of the process."""
        found: list[Listed] = []
        with _Connection(self._path, "LIST", self._seconds) as connection:
            connection.send(wire.request(Kind.LIST))
            while True:
                each = wire.listed(_checked(Kind.LIST, connection.take(wire.SIZE)))
                if each.count <= 0:
                    return found
                found.append(each)

    def statistics(self, minor: int) -> dict[str, Any]:
        """What tapdisk counted for a VBD, as it words it."""
        with _Connection(self._path, "STATS", self._seconds) as connection:
            connection.send(wire.request(Kind.STATS, minor))
            length = wire.text_length(_checked(Kind.STATS, connection.take(wire.SIZE)))
            if length > LONGEST_STATISTICS:
                raise TapdiskFailed(f"tapdisk has {length} bytes of statistics")
            text = connection.take(length)
        try:
            # The text may end in NUL bytes.
            found = json.loads(text.rstrip(b"\0 \n"))
        except ValueError as error:
            raise TapdiskFailed(f"tapdisk's statistics are no JSON: {error}") from error
        if not isinstance(found, dict):
            raise TapdiskFailed(f"tapdisk's statistics are no object: {found!r:.100}")
        return found

    def _do(
        self,
        kind: Kind,
        minor: int,
        *,
        text: str = "",
        flags: int = 0,
        seconds: float | None = None,
    ) -> None:
        message = wire.request(kind, minor, text=text, flags=flags)
        answer = wire.response(self._exchange(kind, message, seconds or self._seconds))
        if answer.error:
            raise Refused(kind.name, answer.error, answer.message)

    def _call(self, kind: Kind, minor: int = 0) -> bytes:
        return self._exchange(kind, wire.request(kind, minor), self._seconds)

    def _exchange(self, kind: Kind, message: bytes, seconds: float) -> bytes:
        with _Connection(self._path, kind.name, seconds) as connection:
            connection.send(message)
            return _checked(kind, connection.take(wire.SIZE))


class _Connection:
    """One connection with one deadline over all that is sent and received."""

    def __init__(self, path: Path, asked: str, seconds: float) -> None:
        self._asked = f"{path}: {asked}"
        self._seconds = seconds
        self._deadline = time.monotonic() + seconds
        self._peer = socket.socket(socket.AF_UNIX)
        try:
            self._peer.settimeout(seconds)
            self._peer.connect(str(path))
        except OSError as error:
            self._peer.close()
            raise OutcomeUnknown(f"{self._asked}: cannot be reached: {error}") from error

    def __enter__(self) -> _Connection:
        return self

    def __exit__(self, *_: object) -> None:
        self._peer.close()

    def send(self, message: bytes) -> None:
        """Send all of it."""
        self._wait(self._deadline - time.monotonic())
        try:
            self._peer.sendall(message)
        except OSError as error:
            raise self._lost(error) from error

    def take(self, length: int) -> bytes:
        """Exactly so many bytes."""
        data = bytearray()
        while len(data) < length:
            self._wait(self._deadline - time.monotonic())
            try:
                more = self._peer.recv(length - len(data))
            except OSError as error:
                raise self._lost(error) from error
            if not more:
                raise self._lost(f"closed after {len(data)} of {length} bytes")
            data += more
        return bytes(data)

    def _wait(self, left: float) -> None:
        if left <= 0:
            raise self._lost(f"no answer in {self._seconds:g} s")
        self._peer.settimeout(left)

    def _lost(self, why: object) -> OutcomeUnknown:
        return OutcomeUnknown(f"{self._asked}: {why}")


def _checked(kind: Kind, message: bytes) -> bytes:
    """The answer to a request of `kind`; `Refused` where it is an error, as whatever it came."""
    found = wire.answer_kind(message)
    if found == Kind.ERROR:
        answer = wire.response(message)
        raise Refused(kind.name, answer.error, answer.message)
    if found != kind.answer:
        raise TapdiskFailed(f"tapdisk answers {kind.name} with message {found}")
    return message
