"""Raw images, and the few things that every image needs of the file or volume it lies in.

A raw image has no metadata: its size is that of the file or block device.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from sm.cowutil.base import CheckReport, ImageFormat, ImageInfo, Layer, SizeLimits, ToolRunner
from sm.cowutil.device import forget_cached
from sm.cowutil.errors import ImageCorrupt, ImageNotRecognised, SizeOutOfRange
from sm.cowutil.stream import Measure, Piece, Read, Zeroes

if TYPE_CHECKING:
    from sm.cowutil.extents import ExtentMap, Extents

SECTOR = 512

STREAM_BYTES = 4 << 20
"""Guest data handed out at once when an image is streamed."""

BLKZEROOUT = 0x127F
"""Zero a range of a block device; from linux/fs.h, takes two u64: start and length in bytes."""


def open_image(path: Path, flags: int = os.O_RDONLY) -> tuple[int, int]:
    """Open a regular file or block device; gives the descriptor and the size in bytes.

    Anything else (a pipe would block for ever) is `ImageNotRecognised`.
    """
    descriptor = os.open(path, flags | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            raise ImageNotRecognised(path, "is neither a regular file nor a block device")
        forget_cached(descriptor)
        return descriptor, os.lseek(descriptor, 0, os.SEEK_END)
    except BaseException:
        os.close(descriptor)
        raise


def sync_file(path: Path) -> None:
    """Make all that any process wrote to the file or device durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_new(path: Path) -> None:
    """Make a new file and its name durable."""
    sync_file(path)
    sync_file(path.parent)


def read_fully(descriptor: int, offset: int, buffer: memoryview) -> None:
    """Fill `buffer` from byte `offset`; what lies beyond the end of the file is zero."""
    done = 0
    while done < len(buffer):
        count = os.preadv(descriptor, [buffer[done:]], offset + done)
        if count == 0:
            buffer[done:] = bytes(len(buffer) - done)
            return
        done += count


class RawLayer(Layer):
    """A raw image opened for reading."""

    def __init__(self, path: Path) -> None:
        self._descriptor, self.virtual_size = open_image(path)

    def map(self) -> ExtentMap:
        """The parts of the file that are not holes; a block device is all data."""
        import numpy as np  # noqa: PLC0415 - not for callers that only want the size

        from sm.cowutil.extents import ExtentMap, Kind  # noqa: PLC0415 - the same

        found = list(data_ranges(self._descriptor, 0, self.virtual_size))
        table = np.array(found, dtype=np.int64).reshape(-1, 2)
        start = table[:, 0].copy()
        kind = np.full(len(start), Kind.DATA, dtype=np.uint8)
        return ExtentMap(start, table[:, 1] - start, kind, start)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` from byte `offset` of the disk."""
        read_fully(self._descriptor, offset, buffer)

    def close(self) -> None:
        """Release the file."""
        os.close(self._descriptor)


def data_ranges(descriptor: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """Half-open ranges between `start` and `end` that may hold data, as the file system tells."""
    position = start
    while position < end:
        try:
            begin = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end
                return
            if error.errno == errno.EINVAL:  # a block device tells nothing
                yield position, end
                return
            raise
        if begin >= end:
            return
        position = min(os.lseek(descriptor, begin, os.SEEK_HOLE), end)
        yield begin, position


class RawFormat(ImageFormat):
    """Disks without metadata. A raw image never has a parent and is never hidden."""

    name = "raw"
    limits = SizeLimits(minimum=SECTOR, maximum=(1 << 63) - SECTOR, granularity=SECTOR)

    def __init__(self, runner: ToolRunner) -> None:
        """Take the runner like every format; raw needs no tool."""

    def info(self, path: Path) -> ImageInfo:
        """Read the size of the file or device; `block_size` is one sector."""
        descriptor, size = open_image(path)
        os.close(descriptor)
        return ImageInfo(
            path=path,
            format=self.name,
            virtual_size=size,
            block_size=SECTOR,
            hidden=False,
            parent=None,
        )

    def allocated_extents(self, path: Path) -> Extents:
        """All of a block device; of a file what is not a hole."""
        with self.open_layer(path) as layer:
            return layer.map().extents()

    def allocated_size(self, path: Path) -> int:
        """Bytes of the file that are not holes."""
        return self.allocated_extents(path).total

    def open_layer(self, path: Path) -> RawLayer:
        """Open for reading."""
        return RawLayer(path)

    def full_size(self, virtual_size: int) -> int:
        """The virtual size itself."""
        return virtual_size

    def empty_size(self, virtual_size: int) -> int:
        """The virtual size itself: all of it is guest data."""
        return virtual_size

    def used_size(self, path: Path) -> int:
        """The whole file or volume."""
        return self.info(path).virtual_size

    def fit(self, path: Path, size: int, *, added_from: int | None = None) -> None:
        """Zero what was added to a volume: all of it is the guest's."""
        if added_from is not None and added_from < size:
            descriptor, _ = open_image(path, os.O_RDWR)
            try:
                _zero(descriptor, added_from, size - added_from)
            finally:
                os.close(descriptor)

    def measure(self, virtual_size: int, data: Extents) -> Measure:
        """The virtual size, with any data; in a file all else is holes."""
        del data
        self._require_sectors(virtual_size)
        return Measure(virtual_size, virtual_size)

    def stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        """The disk itself, with `Zeroes` for all that is not `data`."""
        self._require_sectors(virtual_size)
        return _disk(virtual_size, data.clip(0, virtual_size), read)

    def create(self, path: Path, virtual_size: int) -> None:
        """Make a sparse file, or zero the volume at `path`.

        A crash leaves no file, or one of size zero or of the full size; of a volume any part may
        be zeroed. A file that exists is FileExistsError.
        """
        self._require_size(path, virtual_size, self.limits.minimum)
        if path.is_block_device():
            self._zero_volume(path, virtual_size)
            return
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(path, flags, 0o644)
        try:
            os.ftruncate(descriptor, virtual_size)
        finally:
            os.close(descriptor)
        sync_new(path)

    def resize(self, path: Path, virtual_size: int) -> None:
        """Grow the file, in one step. A volume must be that large already.

        What the new part of a volume holds is up to who grew the volume.
        """
        descriptor, size = open_image(path, os.O_RDWR)
        try:
            self._require_size(path, virtual_size, size)
            if not stat.S_ISBLK(os.fstat(descriptor).st_mode):
                os.ftruncate(descriptor, virtual_size)
                os.fsync(descriptor)
            elif virtual_size > size:
                raise SizeOutOfRange(path, virtual_size, size, size)
        finally:
            os.close(descriptor)

    def check(self, path: Path) -> CheckReport:
        """Only the size can be wrong: it must be a multiple of 512 bytes."""
        size = self.info(path).virtual_size
        if size % SECTOR:
            problem = str(ImageCorrupt(path, "file size", size, "is not a multiple of 512"))
            return CheckReport(path, corruptions=(problem,))
        return CheckReport(path)

    def repair(self, path: Path) -> CheckReport:
        """Change nothing: what a wrong size should have been is not known."""
        return self.check(path)

    def _require_sectors(self, size: int) -> None:
        if size % SECTOR or not 0 < size <= self.limits.maximum:
            raise ValueError(f"no raw image has {size} bytes")

    def _require_size(self, path: Path, size: int, minimum: int) -> None:
        if not minimum <= size <= self.limits.maximum or size % self.limits.granularity:
            raise SizeOutOfRange(path, size, minimum, self.limits.maximum)

    def _zero_volume(self, path: Path, virtual_size: int) -> None:
        descriptor, size = open_image(path, os.O_RDWR)
        try:
            if size < virtual_size:
                raise SizeOutOfRange(path, virtual_size, self.limits.minimum, size)
            _zero(descriptor, 0, size)
        finally:
            os.close(descriptor)


def _zero(descriptor: int, offset: int, length: int) -> None:
    """Zero a range of a block device, durably."""
    fcntl.ioctl(descriptor, BLKZEROOUT, struct.pack("=QQ", offset, length))
    os.fsync(descriptor)


def _disk(virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
    buffer = memoryview(bytearray(STREAM_BYTES))
    position = 0
    for start, end in data:
        if start > position:
            yield Zeroes(start - position)
        for at in range(start, end, STREAM_BYTES):
            piece = buffer[: min(STREAM_BYTES, end - at)]
            read(at, piece)
            yield piece
        position = end
    if position < virtual_size:
        yield Zeroes(virtual_size - position)
