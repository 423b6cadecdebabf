"""Where in the volume MGT what is said. Pure. Offsets and lengths in bytes.

Sector 0 is a header with the number of bytes in use, 1 to 3 are about the SR, then there are two
for each disk; `mgt_text` has what is in them. Deleted disks leave their two sectors to others.
We add a seal in the last block of the volume, where no other manager looks: a generation, and the
length and checksum of what is in use. It does not fit after a crash in the middle of a change, nor
after a change that another manager made.
"""

from __future__ import annotations

import re
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sm.volumes.described import Catalogue, Described, Keep
from sm.volumes.lvm import mgt_text
from sm.volumes.lvm.mgt_text import SECTOR, UUID

BLOCK: Final = 4096
"""What is written at once; no two sectors of one disk lie in two blocks."""

FIRST_DISK: Final = 4 * SECTOR
EACH: Final = 2 * SECTOR

MOST: Final = 64 << 20
"""More is never in use: the names of some 65,000 disks."""

_HEADER = re.compile(rb"XSSM:(\d{1,10}) *:(\d{1,5}) *:.*", re.DOTALL)
_MAJOR: Final = 1
_SEAL = re.compile(rb"sm-names (\d{1,18}) (\d{1,10} [0-9a-f]{8}) *")
_IDENTITY = re.compile(f"<uuid>({UUID})</uuid>".encode("ascii"))
_DELETED = re.compile(rb"<deleted>\s*(1|[Tt]rue)\s*</deleted>")
_NOBODY: Final = "00000000-0000-0000-0000-000000000000"


class Damaged(ValueError):
    """The header is none, or says what cannot be."""


class Unknown(ValueError):
    """A later version of the format, which must be left as it is."""


@dataclass(frozen=True, slots=True)
class About:
    """What is said of the SR itself, beside its name."""

    uuid: str
    allocation: str


def used(header: bytes, size: int) -> int:
    """How much of a volume of `size` bytes is in use, by its first sector.

    Raises `Damaged`, or `Unknown`.
    """
    match = _HEADER.fullmatch(header)
    if match is None:
        raise Damaged("it does not begin with a header")
    if int(match[2]) != _MAJOR:
        raise Unknown(f"it is of version {int(match[2])}")
    length = int(match[1])
    if not FIRST_DISK <= length <= min(size, MOST):
        raise Damaged(f"{length} bytes are said to be in use")
    return length


def read(raw: bytes) -> tuple[About, Catalogue]:
    """What the bytes in use say. Disks that cannot be read are left out."""
    of_sr = mgt_text.read_sr(raw[SECTOR:FIRST_DISK])
    disks: dict[str, Described] = {}
    for pair in _pairs(raw):
        disk = mgt_text.read_disk(pair)
        if disk is not None:
            disks.setdefault(disk.uuid, disk)
    about = About(of_sr.get("uuid", ""), of_sr.get("allocation", ""))
    return about, Catalogue(of_sr.get("name_label", ""), of_sr.get("name_description", ""), disks)


def following(raw: bytes, about: About, catalogue: Catalogue, keep: Keep) -> bytes:
    """The bytes in use for `catalogue` to count, where `raw` is in use now, or nothing.

    Disks stay where they are, and no two share a place in one change: half way, the name of one
    could be read as that of the other. Raises ValueError where there is more to say than fits.
    """
    left = {uuid: disk for uuid, disk in catalogue.disks.items() if re.fullmatch(UUID, uuid)}
    pairs: list[bytes] = []
    free: deque[int] = deque()
    seen: set[str] = set()
    for index, pair in enumerate(_pairs(raw)):
        uuid = _identity(pair)
        if uuid is not None and uuid not in seen and uuid in left:
            pairs.append(mgt_text.about_disk(left.pop(uuid)))
        elif uuid is not None and uuid not in seen and keep(uuid):
            pairs.append(pair)
        else:
            pairs.append(mgt_text.no_disk(pair[:SECTOR], _named(pair)))
            if uuid is None:
                free.append(index)
        if uuid is not None:
            seen.add(uuid)
    for disk in left.values():
        if free:
            pairs[free.popleft()] = mgt_text.about_disk(disk)
        else:
            pairs.append(mgt_text.about_disk(disk))
    length = FIRST_DISK + EACH * len(pairs)
    if length > MOST:
        raise ValueError(f"{len(pairs)} disks take {length} bytes, and {MOST} are the most")
    header = f"XSSM:{length:<10}:{_MAJOR}:2".encode("ascii").ljust(SECTOR)
    of_sr = mgt_text.about_sr(
        about.uuid, about.allocation, catalogue.name_label, catalogue.name_description
    )
    return header + of_sr + b"".join(pairs)


def seal(raw: bytes, generation: int) -> bytes:
    """The last block of a volume in which `raw` is in use, after so many changes of ours."""
    return (f"sm-names {generation} ".encode("ascii") + _sum(raw)).ljust(BLOCK)


def is_sealed(raw: bytes, block: bytes) -> bool | None:
    """Whether the last block of the volume fits what is in use; None where it is no seal."""
    match = _SEAL.fullmatch(block)
    return match[2] == _sum(raw) if match else None


def generation(block: bytes) -> int:
    """How many changes of ours the last block of the volume counts; 0 where it is no seal."""
    match = _SEAL.fullmatch(block)
    return int(match[1]) if match else 0


def _sum(raw: bytes) -> bytes:
    return f"{len(raw)} {zlib.crc32(raw):08x}".encode("ascii")


def capacity(size: int) -> int:
    """How many bytes can be in use of a volume of `size`."""
    return size - BLOCK


def writes(
    raw: bytes, wanted: bytes, size: int, generation: int = 1
) -> Iterator[tuple[int, bytes]]:
    """What is to be written, where, and in which order, for `wanted` to be in use and sealed.

    `raw` is what is in use now; `generation` is the new one. Whole blocks; the one with the header
    after all others, so that disks appear when they are whole, and the seal last.
    """
    padded = wanted.ljust(-(-len(wanted) // BLOCK) * BLOCK)
    first = 0
    for start in range(BLOCK, len(padded) + BLOCK, BLOCK):
        block = padded[start : start + BLOCK]
        if block and block != raw[start : start + BLOCK].ljust(BLOCK):
            first = first or start
        elif first:
            yield first, padded[first:start]
            first = 0
    if padded[:BLOCK] != raw[:BLOCK].ljust(BLOCK):
        yield 0, padded[:BLOCK]
    yield size - BLOCK, seal(wanted, generation)


def _pairs(raw: bytes) -> Iterator[bytes]:
    for start in range(FIRST_DISK, len(raw) - EACH + 1, EACH):
        yield raw[start : start + EACH]


def _identity(pair: bytes) -> str | None:
    """Whose two sectors these are; None where they are nobody's."""
    if not pair.startswith(b"<vdi>") or _DELETED.search(pair, SECTOR):
        return None
    match = _IDENTITY.search(pair, SECTOR)
    return match and match[1].decode("ascii")


def _named(pair: bytes) -> str:
    """Whose two sectors these are or were."""
    match = _IDENTITY.search(pair, SECTOR)
    return match[1].decode("ascii") if match else _NOBODY
