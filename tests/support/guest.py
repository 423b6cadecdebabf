"""What a guest does to a disk: write, and read all of it, if possible by readers of others."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.process import run
from tests.cowutil.contract.subjects import make


def write(chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
    """Fill a range of the disk with one byte value."""
    make(chain[0].format).write(chain, offset, length, byte)


def content(chain: Sequence[ImageRef]) -> bytes:
    """The whole disk as its guest would read it."""
    return make(chain[0].format).content(chain)


class Reader:
    """Reads disks as `content` does, but the same bytes of the same images only once."""

    def __init__(self) -> None:
        self._read: dict[tuple[bytes, ...], bytes] = {}

    def content(self, chain: Sequence[ImageRef]) -> bytes:
        """The whole disk as its guest would read it."""
        key = tuple(hashlib.sha256(image.path.read_bytes()).digest() for image in chain)
        if key not in self._read:
            self._read[key] = content(chain)
        return self._read[key]


def digest(chain: Sequence[ImageRef]) -> str:
    """A checksum of the whole disk."""
    return hashlib.sha256(content(chain)).hexdigest()


def check_clean(chain: Sequence[ImageRef]) -> list[str]:
    """What is wrong with the images of a chain; leaked space is nothing wrong."""
    formats = Formats(run)
    return [
        f"{image.path.name}: {problem}"
        for image in chain
        for problem in formats.get(image.format).check(image.path).corruptions
    ]


class Model:
    """What a disk must read as: a byte array that is written along with the disk."""

    def __init__(self, size: int, data: bytes | None = None) -> None:
        self.data = bytearray(data if data is not None else size)

    def write(self, chain: Sequence[ImageRef], offset: int, length: int, byte: int) -> None:
        """Write to the disk and to the model."""
        write(chain, offset, length, byte)
        self.data[offset : offset + length] = bytes([byte]) * length

    def copy(self) -> Model:
        """The model of a snapshot."""
        return Model(len(self.data), bytes(self.data))
