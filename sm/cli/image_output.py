"""Where a command puts what it makes: a new file, or standard output."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.cowutil.base import Progress
from sm.cowutil.stream import Piece, Zeroes
from sm.durable import TEMPORARY_PREFIX, sync_folder
from sm.errors import InvalidArgument

ZEROES = bytes(1 << 20)


class Sink:
    """Takes pieces in order; counts them for the progress, of `total` bytes.

    `sparse`: a regular file of our own, in which zeroes become holes.
    """

    def __init__(self, descriptor: int, *, sparse: bool, total: int, progress: Progress) -> None:
        self._descriptor = descriptor
        self._sparse = sparse
        self._total = total
        self._progress = progress
        self.length = 0

    def put(self, piece: Piece) -> None:
        """Write one piece, all of it."""
        if not isinstance(piece, Zeroes):
            self._write(memoryview(piece))
            self.length += len(piece)
        elif self._sparse:
            self.length += piece.length
            os.lseek(self._descriptor, piece.length, os.SEEK_CUR)
        else:
            for at in range(0, piece.length, len(ZEROES)):
                self._write(memoryview(ZEROES)[: piece.length - at])
            self.length += piece.length
        self._progress(self.length, self._total)

    def _write(self, rest: memoryview) -> None:
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]


@contextmanager
def new_file(path: Path, *, replace: bool, total: int, progress: Progress) -> Iterator[Sink]:
    """A file that has its name only when it is whole and durable.

    A failure leaves `path` as it was. So does a crash, which may also leave an unfinished file
    beside it whose name begins with `TEMPORARY_PREFIX`.
    """
    require_new(path, replace=replace)
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o644)
    try:
        try:
            sink = Sink(descriptor, sparse=True, total=total, progress=progress)
            yield sink
            os.ftruncate(descriptor, sink.length)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if replace:
            temporary.replace(path)
        else:
            _link(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def require_new(path: Path, *, replace: bool) -> None:
    """Refuse a name that is taken; with `replace`, only one that is no regular file's."""
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not replace:
        raise InvalidArgument(f"{path} exists; --force replaces it")
    if not stat.S_ISREG(mode):
        raise InvalidArgument(f"{path} is no regular file, and is not replaced by one")


def _link(temporary: Path, path: Path) -> None:
    """Give the file its name, unless somebody else took it meanwhile."""
    try:
        os.link(temporary, path)
    except FileExistsError as error:
        raise InvalidArgument(f"{path} exists; --force replaces it") from error
    temporary.unlink()
