"""A QCOW2 image opened for writing, by way of qemu-nbd: qemu does what its tables need.

The image is given to qemu with its whole chain, because a part of a cluster is filled up from
below. qemu-nbd ends when we hang up, also when we are killed; killed before we have called, it is
ended by the system (`setpriv --pdeathsig`).

The protocol is that of doc/proto.md of the NetworkBlockDevice project.
"""

from __future__ import annotations

import os
import socket
import struct
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from threading import Event

from sm.cowutil.base import ImageRef, ToolRunner
from sm.cowutil.errors import Cancelled, ImageError
from sm.cowutil.extents import Int64s
from sm.cowutil.qcow2 import tool

START_SECONDS = 60.0
POLL_SECONDS = 0.002
IN_FLIGHT = 16
"""Requests that wait for their answers at a time."""

LARGEST = 1 << 30
"""Bytes that one request to zero may name."""

GREETING = struct.Struct(">8s8sH")
OPTION = struct.Struct(">8sII")
OPTION_REPLY = struct.Struct(">QIII")
REQUEST = struct.Struct(">IHHQQI")
REPLY = struct.Struct(">IIQ")
REQUEST_MAGIC, REPLY_MAGIC = 0x25609513, 0x67446698
FIXED_NEWSTYLE_NO_ZEROES = 3
OPTION_GO, REPLY_ACK, REPLY_ERROR = 7, 1, 1 << 31
WRITE, DISCONNECT, FLUSH, WRITE_ZEROES = 1, 2, 3, 6


class NbdTarget:
    """Writes guest bytes of the first image of `chain`; see `opened`."""

    def __init__(self, path: Path, connection: socket.socket) -> None:
        self._path = path
        self._connection = connection
        self._waiting = 0
        self._handle = 0
        self._shake_hands()

    def write(self, offset: int, data: memoryview, held: Int64s | None = None) -> None:
        """Write `data`, or its (start, end) ranges `held`; the rest of the disk stays as it is."""
        for start, end in [(0, len(data))] if held is None else held.tolist():
            self._send(WRITE, offset + start, end - start, data[start:end])

    def write_zeroes(self, offset: int, length: int) -> None:
        """Make guest bytes zero; whole clusters become zero clusters."""
        for at in range(offset, offset + length, LARGEST):
            self._send(WRITE_ZEROES, at, min(LARGEST, offset + length - at))

    def commit(self) -> None:
        """Make everything written durable, tables included."""
        # A flush is about what was answered before it, not about what is under way.
        self._finish()
        self._send(FLUSH, 0, 0)
        self._finish()

    def hang_up(self) -> None:
        """Let qemu-nbd end."""
        self._connection.sendall(REQUEST.pack(REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))

    def _finish(self) -> None:
        while self._waiting:
            self._receive()

    def _send(self, kind: int, offset: int, length: int, data: memoryview | None = None) -> None:
        while self._waiting >= IN_FLIGHT:
            self._receive()
        self._handle += 1
        self._connection.sendall(REQUEST.pack(REQUEST_MAGIC, 0, kind, self._handle, offset, length))
        if data is not None:
            self._connection.sendall(data)
        self._waiting += 1

    def _receive(self) -> None:
        magic, error, _ = REPLY.unpack(self._read(REPLY.size))
        if magic != REPLY_MAGIC:
            raise ImageError(self._path, "qemu-nbd answered what is no answer")
        self._waiting -= 1
        if error:
            raise OSError(error, os.strerror(error), str(self._path))

    def _shake_hands(self) -> None:
        magic, option_magic, _ = GREETING.unpack(self._read(GREETING.size))
        if magic != b"NBDMAGIC":
            raise ImageError(self._path, "qemu-nbd greets with what is no greeting")
        # The export has no name, and nothing is asked about it.
        about = struct.pack(">IH", 0, 0)
        self._connection.sendall(
            struct.pack(">I", FIXED_NEWSTYLE_NO_ZEROES)
            + OPTION.pack(option_magic, OPTION_GO, len(about))
            + about
        )
        while True:
            _, _, kind, length = OPTION_REPLY.unpack(self._read(OPTION_REPLY.size))
            said = self._read(length)
            if kind == REPLY_ACK:
                return
            if kind & REPLY_ERROR:
                raise ImageError(self._path, f"qemu-nbd refuses: {said.decode(errors='replace')}")

    def _read(self, length: int) -> bytes:
        data = bytearray()
        while len(data) < length:
            part = self._connection.recv(length - len(data))
            if not part:
                raise ImageError(self._path, "qemu-nbd ended in the middle of the work")
            data += part
        return bytes(data)


@contextmanager
def opened(runner: ToolRunner, chain: Sequence[ImageRef]) -> Iterator[NbdTarget]:
    """Open the first image of `chain`, which goes down to the base, for writing.

    At the end qemu-nbd has ended, and what was committed is durable. Raises `ImageBusy` when
    another process has the image open, and `ImageError` for what qemu says besides.
    """
    with tempfile.TemporaryDirectory(prefix="sm-nbd-") as folder:
        server = _Server(runner, chain, Path(folder) / "socket")
        try:
            with server.connect() as connection:
                yield (target := server.greet(connection))
                target.hang_up()
        finally:
            server.wait()
    server.check()


class _Server:
    """One qemu-nbd, run to its end in a thread: the thread's end would end it, too."""

    def __init__(self, runner: ToolRunner, chain: Sequence[ImageRef], address: Path) -> None:
        self._path = chain[0].path
        self._address = address
        self._not_wanted = Event()
        executor = ThreadPoolExecutor(1, "qemu-nbd")
        argv = tool.nbd_argv(chain, address)
        self._end: Future[object] = executor.submit(
            tool.run_tool, runner, self._path, argv, timeout=tool.MERGE_TIMEOUT, watch=self._watch
        )
        executor.shutdown(wait=False)

    def connect(self) -> socket.socket:
        """A connection, once it listens; raises why it does not."""
        deadline = time.monotonic() + START_SECONDS
        try:
            while (connection := self._try_to_connect()) is None:
                if self._end.done():
                    self._end.result()
                    raise ImageError(self._path, "qemu-nbd ended before it listened")
                if time.monotonic() > deadline:
                    raise ImageError(self._path, f"qemu-nbd does not listen in {START_SECONDS:g} s")
                time.sleep(POLL_SECONDS)
        except BaseException:
            self._not_wanted.set()
            raise
        return connection

    def greet(self, connection: socket.socket) -> NbdTarget:
        """Begin to talk; raises what it ends with where it cannot open the image."""
        try:
            return NbdTarget(self._path, connection)
        except (OSError, ImageError):
            self.wait()
            self.check()
            raise

    def wait(self) -> None:
        """Wait for its end."""
        wait([self._end])

    def check(self) -> None:
        """Raise what it ended with, if that is an error."""
        self._end.result()

    def _try_to_connect(self) -> socket.socket | None:
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(str(self._address))
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            return None
        return connection

    def _watch(self, said: str) -> None:
        del said
        if self._not_wanted.is_set():
            raise Cancelled("qemu-nbd is not needed any more")
