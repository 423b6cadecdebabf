"""Seeded damage that knows where the fields of an image are: the same seed gives the same image."""

from __future__ import annotations

import random
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.cowutil.qcow2.images import BY_NAME
from tests.cowutil.qcow2.mutations import mutate
from tests.cowutil.vhd.test_vhd_hostile import SPOTS
from tests.cowutil.vhd.vhd_foreign import footer
from tests.hostile.qcow2_parts import FIELDS, SOUND_PARTS, extension
from tests.hostile.qcow2_tables import bitmap, snapshot
from tests.hostile.vhd_cases import BLOCK, HEADER, NO_OFFSET, edited, sealed, sound

Field = tuple[int, int]
"""Offset and length in bytes."""

VHD_FIELDS: Sequence[Field] = (
    (0, 8), (8, 4), (12, 4), (16, 8), (24, 4), (28, 4), (32, 4), (48, 8), (56, 4), (60, 4),
    (64, 4), (84, 1), (85, 1),
    *((HEADER + at, width) for at, width in (
        (0, 8), (8, 8), (16, 8), (24, 4), (28, 4), (32, 4), (36, 4), (40, 8), (56, 4),
    )),
    *((HEADER + 576 + 24 * number + at, width) for number in range(3) for at, width in (
        (0, 4), (4, 4), (8, 4), (16, 8),
    )),
)  # fmt: skip

QEMU_VARIANTS = ("snapshots", "extended_16k", "deflate_4k", "version2", "refcount_4")
LARGEST = 1 << 34
"""Up to here a file may be one hole."""


@dataclass(frozen=True)
class Mutant:
    """A damaged image: `content`, and behind it a hole up to `length` (or nothing, if cut)."""

    format: str
    content: bytes
    length: int

    def write(self, path: Path) -> None:
        """Make the file, over an older one."""
        with path.open("wb") as file:
            file.write(self.content[: self.length])
            file.truncate(self.length)


@cache
def sparse_vhds() -> tuple[bytes, ...]:
    """Sound VHDs: a child with a batmap, a disk by another program, a fixed one."""
    plain = sound(
        locators=[], name="", parent=bytes(16), creator=b"win ", version=0x60001, extra={}
    )
    fixed = bytes(BLOCK) + footer(2, BLOCK, data_offset=NO_OFFSET)
    elsewhere = sound(header_at=0x3000, table_at=0x600, locators=[], extra={}, creator=b"win ")
    return bytes(edited()), bytes(plain), fixed, bytes(elsewhere)


@cache
def own_qcow2() -> bytes:
    """A sound QCOW2 with all that qemu-img makes only when asked: snapshot, bitmap, extensions."""
    spare = SOUND_PARTS.length
    parts = SOUND_PARTS.but(
        fields={"snapshot_count": 1, "snapshot_offset": spare, "autoclear": 1},
        extensions=extension(0xE2792ACA, b"raw")
        + extension(0x23852875, bytes([0, 0, 0, 1]) + bytes(11) + b"\x20" + bytes(6) + b"\x90\0"),
        backing=b"parent.raw",
        clusters=10,
        pieces={spare: snapshot(0x3000, 1), spare + 4096: bitmap(0, 0)},
    )
    image = bytearray(parts.length)
    for at, piece in parts.layout().items():
        image[at : at + len(piece)] = piece
    return bytes(image)


def originals(folder: Path) -> list[tuple[str, bytes]]:
    """Format and content of the sound images that mutants are made of; qemu-img makes some."""
    made = [("qcow2", BY_NAME[name].make(folder).read_bytes()) for name in QEMU_VARIANTS]
    return [*made, *[("qcow2", own_qcow2())] * 3, *(("vhd", image) for image in sparse_vhds() * 3)]


def mutant(seed: int, sources: Sequence[tuple[str, bytes]]) -> Mutant:
    """The damaged image of this number."""
    dice = random.Random(seed)
    name, original = dice.choice(sources)
    image = bytearray(original)
    for _ in range(dice.choice((1, 1, 2, 4))):
        dice.choice((_edge, _edge, _word, _splice, _structure))(dice, name, image)
    if name == "vhd" and dice.random() < 0.8:
        sealed(image, header=len(image) > 1536 and image[512:520] == b"cxsparse")
    length = len(image)
    if dice.random() < 0.15:
        length = dice.choice((dice.randrange(length), length + dice.randrange(4096), LARGEST))
    return Mutant(name, bytes(image), length)


def _value(dice: random.Random, width: int, now: int) -> int:
    """A value at an edge, or near the present one."""
    edge = 1 << dice.randrange(8 * width)
    near = (now + dice.choice((-512, -1, 1, 512, 4096)), now ^ edge)
    small = (0, 1, 2, 3, 9, 16, 21, 255, 511, 512, 4096)
    chosen = dice.choice((*small, edge, edge - 1, -1, -2, -512, dice.getrandbits(64), *near))
    return chosen % (1 << 8 * width)


def _edge(dice: random.Random, name: str, image: bytearray) -> None:
    """One field of the header."""
    at, width = dice.choice(VHD_FIELDS if name == "vhd" else tuple(FIELDS.values())[1:])
    if at + width <= len(image):
        now = int.from_bytes(image[at : at + width], "big")
        image[at : at + width] = _value(dice, width, now).to_bytes(width, "big")


def _word(dice: random.Random, name: str, image: bytearray) -> None:
    """Some bytes of a table."""
    if name == "qcow2" and len(image) > 4096:
        try:
            image[:] = mutate(bytes(image), dice, header=True)
        except (IndexError, ValueError, OverflowError, struct.error):
            image[dice.randrange(len(image))] ^= 1  # its header no longer leads to its tables
        return
    start, length = dice.choice(SPOTS)
    at = start + dice.randrange(length) // 4 * 4
    if at + 4 <= len(image):
        image[at : at + 4] = _value(dice, 4, 0).to_bytes(4, "big")


def _splice(dice: random.Random, name: str, image: bytearray) -> None:
    """One piece of the metadata over another, or the beginning of the other format."""
    foreign = own_qcow2() if name == "vhd" else sparse_vhds()[0]
    source = bytes(image) if dice.random() < 0.7 else foreign
    length = dice.choice((8, 16, 24, 512, 1024))
    at, to = (dice.randrange(0x4000) // 8 * 8 for _ in range(2))
    piece = source[at : at + length]
    if to + len(piece) <= len(image):
        image[to : to + len(piece)] = piece


def _structure(dice: random.Random, name: str, image: bytearray) -> None:
    """A whole structure of zeros, of ones, or of another's bytes."""
    del name
    at = dice.randrange(0x9000) // 512 * 512
    length = dice.choice((512, 1024, 4096))
    piece = dice.choice((bytes(length), b"\xff" * length, dice.randbytes(length)))
    piece = piece[: max(0, len(image) - at)]
    image[at : at + len(piece)] = piece
