"""Finding out the format of an image from its content: only where somebody asks for it.

A guest can write the magic number of any format into its raw disk, so what is found here is a hint
for a person, never a ground to open what the image then names. Raw is never a finding.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from sm.cowutil.base import ImageFormat, Magic
from sm.cowutil.errors import ImageError, ImageNotRecognised
from sm.cowutil.raw import open_image


class ImageAmbiguous(ImageError):
    """The file has the signs of more than one format."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A format, and the magic number that told it, at byte `offset` of the file."""

    format: str
    magic: bytes
    offset: int

    def __str__(self) -> str:
        return f"{self.format}, for {repr(self.magic)[1:]} at byte {self.offset}"


def probe(path: Path, formats: Iterable[ImageFormat]) -> Probed:
    """The one format whose magic number the file has.

    `ImageNotRecognised` where it has none, `ImageAmbiguous` where two formats have a sign in it.
    Reads a few bytes at the places that the formats declare.
    """
    descriptor, size = open_image(path)
    try:
        found = [
            Probed(each.name, magic.value, magic.offset % size)
            for each in formats
            for magic in each.magics
            if _has(descriptor, size, magic)
        ]
    finally:
        os.close(descriptor)
    if not found:
        raise ImageNotRecognised(path, "has no sign of a known format; a raw disk has none")
    if len({each.format for each in found}) > 1:
        raise ImageAmbiguous(path, f"may be {' or '.join(str(each) for each in found)}")
    return found[0]


def _has(descriptor: int, size: int, magic: Magic) -> bool:
    at = magic.offset if magic.offset >= 0 else size + magic.offset
    if at < 0 or at + len(magic.value) > size:
        return False
    return os.pread(descriptor, len(magic.value), at) == magic.value
