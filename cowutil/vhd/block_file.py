"""The few effects that the format needs on one file or block device, behind an interface.

All reading and writing of images goes through it, so a test can record each write and flush and
replay what a power cut would leave.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol, Self

from sm.cowutil.device import forget_cached
from sm.cowutil.errors import ImageBusy, ImageNotRecognised
from sm.cowutil.holes import punch_hole


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

    def discard(self, offset: int, length: int) -> None:
        """Give back the space of a range that is not needed any more, where that is possible."""

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


def nobody(reason: str) -> None:
    """Nobody is told of a loss."""
    del reason


@dataclass(slots=True)
class Fate:
    """Whether something that was written to an open file may be lost; `told` is called then."""

    lost: bool = False
    told: Callable[[str], None] = nobody


class ImageFile:
    """A file descriptor as a `BlockFile`; `descriptor` may be read from directly.

    After a flush that failed nothing can be written or flushed any more (EIO): the system may have
    dropped what it could not write, and says so once only. `fate` tells.
    """

    def __init__(
        self, path: Path, descriptor: int, resizable: bool, fate: Fate | None = None
    ) -> None:
        self.path = path
        self.resizable = resizable
        self.descriptor = descriptor
        self.fate = fate or Fate()

    @property
    def identity(self) -> tuple[int, int]:
        """Device and number: the file itself, whatever it is called."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def again(self, path: Path) -> Self:
        """The same open file, by its present name `path`; a lock ends when both are closed."""
        descriptor = fcntl.fcntl(self.descriptor, fcntl.F_DUPFD_CLOEXEC, 0)
        return type(self)(path, descriptor, self.resizable, self.fate)

    def size(self) -> int:
        """The present length in bytes, of a block device too."""
        # Not fstat: it says zero for a block device.
        return os.lseek(self.descriptor, 0, os.SEEK_END)

    def read_into(self, offset: int, buffer: memoryview) -> int:
        """Fill `buffer`; fewer bytes than asked for only at the end of the file."""
        done = 0
        while done < len(buffer):
            count = os.preadv(self.descriptor, [buffer[done:]], offset + done)
            if count == 0:
                break
            done += count
        return done

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of `data`; durable after the next flush."""
        self._require_kept()
        rest = memoryview(data).cast("B")
        while rest:
            count = os.pwrite(self.descriptor, rest, offset)
            rest = rest[count:]
            offset += count

    def flush(self) -> None:
        """Make everything written so far durable."""
        self._require_kept()
        try:
            # fdatasync also makes a changed length durable.
            os.fdatasync(self.descriptor)
        except OSError as error:
            self.fate.lost = True
            self.fate.told(f"{self.path.name} could not be synced: {error.strerror}")
            # Whatever it was: that there is space again brings nothing back.
            raise self._lost() from error

    def truncate(self, size: int) -> None:
        """Set the length of a regular file."""
        os.ftruncate(self.descriptor, size)

    def discard(self, offset: int, length: int) -> None:
        """Make a hole in a regular file; a volume keeps its size."""
        if self.resizable:
            punch_hole(self.descriptor, offset, length)

    def close(self) -> None:
        """Release the file without flushing; nothing happens when that was done before."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1

    def _require_kept(self) -> None:
        if self.fate.lost:
            raise self._lost()

    def _lost(self) -> OSError:
        return OSError(errno.EIO, "what was written before a failed sync is lost", str(self.path))


def open_file(path: Path, access: Access) -> ImageFile:
    """Open a regular file or block device; OSError as the system says it.

    Anything else (folder, pipe, socket, character device) is `ImageNotRecognised`. Whoever writes
    has an exclusive flock(2) on the file until it closes it or dies, because two writers would give
    two blocks one place, and the format has no lock: a second one is `ImageBusy`. The lock keeps
    out other processes on this host and, where the file system knows of such locks, on others. It
    stays with the file when that is renamed. Readers need none.
    """
    flags = access.value
    if access is Access.CREATE and path.is_block_device():
        flags = os.O_RDWR
    # O_NONBLOCK: opening a pipe that somebody put there must not hang.
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK, 0o600)
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ImageNotRecognised(path, "is neither a regular file nor a block device")
        forget_cached(descriptor)
        if access is not Access.READ:
            _lock(path, descriptor)
    except BaseException:
        os.close(descriptor)
        raise
    return ImageFile(path, descriptor, stat.S_ISREG(mode))


def _lock(path: Path, descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        problem = "another process has it open for writing; nothing was changed, wait for its end"
        raise ImageBusy(path, problem) from error


def sync_name(file: BlockFile) -> None:
    """Make the name of a new file durable; a block device has no name of its own."""
    if file.resizable:
        folder = os.open(file.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
