"""The few effects that the format needs on one file or block device, behind an interface.

All reading and writing of images goes through it, so a test can record each write and flush and
replay what a power cut would leave.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Protocol

from sm.cowutil.errors import ImageNotRecognised


class Access(Enum):
    """What a file is opened for; `CREATE` refuses a file that exists, but takes a block device."""

    READ = os.O_RDONLY
    WRITE = os.O_RDWR
    CREATE = os.O_RDWR | os.O_CREAT | os.O_EXCL


class BlockFile(Protocol):
    """One image file. All offsets and lengths are in bytes.

    `resizable`: a regular file, which ends where its image ends; a block device keeps its size.
    """

    path: Path
    resizable: bool

    def size(self) -> int:
        """The present length."""

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes than asked for only at the end of the file."""

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; durable after the next flush."""

    def flush(self) -> None:
        """Make everything written so far durable."""

    def truncate(self, size: int) -> None:
        """Set the length of a regular file."""

    def close(self) -> None:
        """Release the file without flushing."""


Opener = Callable[[Path, Access], BlockFile]
"""How an image is opened; see `open_file`."""


def read(file: BlockFile, offset: int, length: int) -> bytes:
    """Up to `length` bytes from `offset`; shorter only at the end of the file."""
    if offset >= file.size():  # also where no system call takes such an offset
        return b""
    data = bytearray(length)
    return bytes(memoryview(data)[: file.read_into(offset, memoryview(data))])


def no_space(file: BlockFile) -> OSError:
    """The error of a volume that is too small, as the system would say it."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(file.path))


def open_file(path: Path, access: Access) -> BlockFile:
    """Open a regular file or block device; OSError as the system says it.

    Anything else (folder, pipe, socket, character device) is `ImageNotRecognised`.
    """
    flags = access.value
    if access is Access.CREATE and path.is_block_device():
        flags = os.O_RDWR
    # O_NONBLOCK: opening a pipe that somebody put there must not hang.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    mode = os.fstat(descriptor).st_mode
    if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
        os.close(descriptor)
        raise ImageNotRecognised(path, "is neither a regular file nor a block device")
    return _SystemFile(path, descriptor, stat.S_ISREG(mode))


def sync_name(file: BlockFile) -> None:
    """Make the name of a new file durable; a block device has no name of its own."""
    if file.resizable:
        folder = os.open(file.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class _SystemFile:
    """A file descriptor as a `BlockFile`."""

    def __init__(self, path: Path, descriptor: int, resizable: bool) -> None:
        self.path = path
        self.resizable = resizable
        self._descriptor = descriptor

    def size(self) -> int:
        # Not fstat: it says zero for a block device.
        return os.lseek(self._descriptor, 0, os.SEEK_END)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        done = 0
        while done < len(buffer):
            count = os.preadv(self._descriptor, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        rest = memoryview(data).cast("B")
        while rest:
            count = os.pwrite(self._descriptor, rest, offset)
            rest = rest[count:]
            offset += count

    def flush(self) -> None:
        # fdatasync also makes a changed length durable.
        os.fdatasync(self._descriptor)

    def truncate(self, size: int) -> None:
        os.ftruncate(self._descriptor, size)

    def close(self) -> None:
        os.close(self._descriptor)
