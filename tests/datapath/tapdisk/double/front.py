"""What the NBD server of the double serves: a disk that counts, over whatever holds the data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from threading import Lock

from sm.nbd.export import Export
from sm.nbd.protocol import Command, CommandFlag
from tests.nbd.client import Client


class AnyName(bytes):
    """Tapdisk takes every export name for its own."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, bytes)

    def __ne__(self, other: object) -> bool:
        return not isinstance(other, bytes)

    __hash__ = bytes.__hash__


class AnyExport(str):
    """For `NbdServer`, which keeps the encoded name."""

    def encode(self, encoding: str = "utf-8", errors: str = "strict") -> bytes:
        return AnyName(str.encode(self, encoding, errors))


class Forwarded:
    """An export that another NBD server has; its answers are passed on."""

    def __init__(self, path: Path, name: str, *, read_only: bool) -> None:
        self._client = Client(path, export=name.encode())
        self._lock = Lock()
        self.size: int = self._client.size
        self.read_only = read_only

    def read_into(self, offset: int, buffer: memoryview) -> None:
        with self._lock:
            error, data = self._client.read(offset, len(buffer))
        _require(error)
        buffer[:] = data

    def write(self, offset: int, data: memoryview) -> None:
        self._do(Command.WRITE, offset, data=bytes(data))

    def write_zeroes(self, offset: int, length: int, *, allocate: bool) -> None:
        flags = CommandFlag.NO_HOLE if allocate else 0
        self._do(Command.WRITE_ZEROES, offset, length, flags=flags)

    def trim(self, offset: int, length: int) -> None:
        self._do(Command.TRIM, offset, length)

    def cache(self, offset: int, length: int) -> None:
        pass

    def flush(self) -> None:
        self._do(Command.FLUSH)

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        yield length, False

    def close(self) -> None:
        self._client.close()

    def _do(
        self, kind: int, offset: int = 0, length: int = 0, data: bytes = b"", flags: int = 0
    ) -> None:
        with self._lock:
            error = self._client.do(kind, offset, length, data=data, flags=flags)
        _require(error)


class Counting:
    """Counts the sectors that go through; `inner` may be replaced while nobody is served."""

    def __init__(self, inner: Export) -> None:
        self.inner = inner
        self.sectors = [0, 0]

    @property
    def size(self) -> int:
        return self.inner.size

    @property
    def read_only(self) -> bool:
        return self.inner.read_only

    def read_into(self, offset: int, buffer: memoryview) -> None:
        self.inner.read_into(offset, buffer)
        self.sectors[0] += len(buffer) // 512

    def write(self, offset: int, data: memoryview) -> None:
        self.inner.write(offset, data)
        self.sectors[1] += len(data) // 512

    def write_zeroes(self, offset: int, length: int, *, allocate: bool) -> None:
        self.inner.write_zeroes(offset, length, allocate=allocate)

    def trim(self, offset: int, length: int) -> None:
        self.inner.trim(offset, length)

    def cache(self, offset: int, length: int) -> None:
        self.inner.cache(offset, length)

    def flush(self) -> None:
        self.inner.flush()

    def extents(self, offset: int, length: int) -> Iterator[tuple[int, bool]]:
        yield from self.inner.extents(offset, length)


def _require(error: int) -> None:
    if error:
        raise OSError(error, "the server behind refused")


def unlink(path: Path) -> None:
    """Remove a socket that may be gone."""
    with suppress(FileNotFoundError):
        path.unlink()
