"""Our records on a volume: all of them in one piece, twice, the newer one counting. Pure.

Each half of the volume holds a copy: a generation, its length and checksum, then the records as
JSON. A change writes the half that does not count, in one write; torn, it does not fit its
checksum, and the other half still counts. One writer at a time; readers need no lock.
"""

from __future__ import annotations

import base64
import json
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field

VOLUME_SIZE = 4 << 20
HALF = VOLUME_SIZE // 2
BLOCK = 4096
"""Copies are padded to it, so that they can be written past all caches."""

_HEADER = struct.Struct("<8sQQI")
_MAGIC = b"sm-recs\n"


@dataclass(frozen=True, slots=True)
class Copy:
    """One copy of all records. `half` says where it lies; generation 0 is of an empty volume."""

    generation: int = 0
    half: int = 1
    records: Mapping[str, bytes] = field(default_factory=dict)


def newest(halves: tuple[bytes, bytes]) -> Copy:
    """The copy that counts, of the two halves of a volume; ValueError where none can be read.

    Both are blank in a new volume; of each only what `length` tells is needed.
    """
    copies = [_unpack(raw, half) for half, raw in enumerate(halves)]
    found = [copy for copy in copies if copy is not None]
    if found:
        return max(found, key=lambda copy: copy.generation)
    if any(raw[: len(_MAGIC)].strip(b"\0") for raw in halves):
        raise ValueError("neither copy of the records can be read")
    return Copy()


def length(front: bytes) -> int:
    """How many bytes the copy takes that begins with `front`, which is its first block at least."""
    magic, _, size, _ = _HEADER.unpack_from(front)
    return min(HALF, _HEADER.size + int(size)) if magic == _MAGIC else 0


def following(copy: Copy, records: Mapping[str, bytes]) -> tuple[int, bytes]:
    """What is to be written, and at which byte, for `records` to count; ValueError for too many."""
    encoded = {name: base64.b64encode(content).decode("ascii") for name, content in records.items()}
    body = json.dumps(encoded, separators=(",", ":")).encode("utf-8")
    header = _HEADER.pack(_MAGIC, copy.generation + 1, len(body), 0)
    raw = _HEADER.pack(_MAGIC, copy.generation + 1, len(body), zlib.crc32(header + body)) + body
    if len(raw) > HALF:
        raise ValueError(f"{len(raw)} bytes of records, and room for {HALF}")
    return (1 - copy.half) * HALF, raw.ljust(-(-len(raw) // BLOCK) * BLOCK, b"\0")


def _unpack(raw: bytes, half: int) -> Copy | None:
    magic, generation, size, checksum = _HEADER.unpack_from(raw)
    body = raw[_HEADER.size : _HEADER.size + size]
    header = _HEADER.pack(_MAGIC, generation, size, 0)
    if magic != _MAGIC or len(body) != size or zlib.crc32(header + body) != checksum:
        return None
    records = {name: base64.b64decode(text) for name, text in json.loads(body).items()}
    return Copy(generation, half, records)
