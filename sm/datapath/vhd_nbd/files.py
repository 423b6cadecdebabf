"""Image files whose descriptor may be read from directly, and the lock on the one written to."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path

from sm.cowutil.errors import ImageBusy
from sm.cowutil.raw import open_image, read_fully


class ImageFile:
    """A `BlockFile` of `sm.cowutil.vhd.block_file` with its `descriptor`.

    Reading beyond the end of the file gives zeroes to `fill`, fewer bytes to `read_into`.
    """

    def __init__(self, path: Path, *, writable: bool) -> None:
        self.path = path
        self.descriptor, _ = open_image(path, os.O_RDWR if writable else os.O_RDONLY)
        self.resizable = not path.is_block_device()

    @property
    def identity(self) -> tuple[int, int]:
        """Device and number: the file itself, whatever it is called."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino

    def size(self) -> int:
        """The present length in bytes, of a block device too."""
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
        rest = memoryview(data).cast("B")
        while rest:
            count = os.pwrite(self.descriptor, rest, offset)
            rest = rest[count:]
            offset += count

    def flush(self) -> None:
        """Make everything written so far durable, a changed length too."""
        os.fdatasync(self.descriptor)

    def truncate(self, size: int) -> None:
        """Set the length of a regular file."""
        os.ftruncate(self.descriptor, size)

    def close(self) -> None:
        """Release the file without flushing; nothing happens when that was done before."""
        if self.descriptor >= 0:
            os.close(self.descriptor)
            self.descriptor = -1


fill = read_fully
"""`fill(descriptor, offset, buffer)`, with zeroes beyond the end of the file."""


class WriterLock:
    """The right to write to an image: an exclusive flock(2), held until `release` or death.

    It keeps out other processes that take it, on this host or, where the file system knows of such
    locks, on others. It stays with the file when that is renamed.
    """

    def __init__(self, path: Path) -> None:
        self._file = ImageFile(path, writable=True)
        try:
            fcntl.flock(self._file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._file.close()
            raise ImageBusy(path, "another process writes to it") from error
        except BaseException:
            self._file.close()
            raise
        self.identity = self._file.identity

    def release(self) -> None:
        """Give it up."""
        self._file.close()
