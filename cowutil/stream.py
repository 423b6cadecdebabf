"""Images as streams: made in one pass, of a length known before the first byte."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

Read = Callable[[int, memoryview], None]
"""Fills the buffer with the disk from a byte offset, as `ChainReader.read_into` does."""


@dataclass(frozen=True, slots=True)
class Zeroes:
    """So many zero bytes of an image; in a file they may be a hole."""

    length: int


Piece = bytes | memoryview | Zeroes
"""A part of an image, in file order. A memoryview is valid until the next piece is asked for."""


@dataclass(frozen=True, slots=True)
class Measure:
    """How long a new image will be, in bytes: with certain data, and with every block in use."""

    required: int
    fully_allocated: int
