"""Seeded damage to the metadata of an image."""

from __future__ import annotations

import random
import struct

from sm.cowutil.qcow2 import layout


def regions(image: bytes, *, header: bool) -> list[tuple[int, int]]:
    """Offset and length of the header and the tables of a sound image."""
    size = 1 << image[layout.CLUSTER_BITS_FIELD + 3]
    (l1,) = struct.unpack_from(">Q", image, layout.L1_OFFSET_FIELD)
    (entries,) = struct.unpack_from(">I", image, layout.L1_SIZE_FIELD)
    (refcounts,) = struct.unpack_from(">Q", image, layout.REFCOUNT_OFFSET_FIELD)
    found = [(0, 200)] * 4 if header else []
    found += [(l1, entries * 8), (refcounts, 64)]
    for index in range(entries):
        (table,) = struct.unpack_from(">Q", image, l1 + index * 8)
        if table & layout.OFFSET_MASK:
            found += [(table & layout.OFFSET_MASK, min(size, 1024))] * 4
    for index in range(4):
        (block,) = struct.unpack_from(">Q", image, refcounts + index * 8)
        if 0 < block < len(image):
            found += [(block, min(size, 128))] * 2
    return found


def mutate(image: bytes, generator: random.Random, *, header: bool) -> bytes:
    """The image with one to three bytes or words of its metadata changed."""
    damaged = bytearray(image)
    start, length = generator.choice(regions(image, header=header))
    for _ in range(generator.randint(1, 3)):
        place = min(start + generator.randrange(length), len(image) - 8)
        aligned = place // 8 * 8
        match generator.randrange(5):
            case 0:
                damaged[place] ^= 1 << generator.randrange(8)
            case 1:
                damaged[place] = generator.randrange(256)
            case 2:
                damaged[aligned : aligned + 8] = bytes(8)
            case 3:
                other = (start + generator.randrange(length)) // 8 * 8
                damaged[aligned : aligned + 8] = damaged[other : other + 8].ljust(8, b"\0")
            case _:
                damaged[aligned : aligned + 8] = generator.randbytes(8)
    return bytes(damaged)
