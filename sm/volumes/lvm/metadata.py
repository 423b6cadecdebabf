"""What a volume group consists of, from the metadata that LVM keeps on each device. Pure.

Facts of the format: lvm2's format_text (label, `pv_header`, `mda_header`, text), which has been the
same since 2002. A label is in one of the first four sectors; it leads to the areas that hold the
text, and each area begins with a header that tells where in it the present text lies. All numbers
are little endian; the checksum is a CRC-32 with a start value of its own.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise

from sm.volumes.lvm import config_text
from sm.volumes.lvm.config_text import Section

SECTOR = 512
LABEL_SECTORS = 4
LABEL_MAGIC = b"LABELONE"
LABEL_TYPE = b"LVM2 001"
AREA_MAGIC = b" LVM2 x[5A%r0N*>"
IGNORED = 1
"""The flag of an area that LVM does not use."""

_CHECKSUM_START = 0xF597A6CF
_LABEL = struct.Struct("<8sQII8s")
_RANGE = struct.Struct("<QQ")
_AREA_HEADER = struct.Struct("<I16sIQQ")
_TEXT_PLACE = struct.Struct("<QQII")
_MOST_TEXT = 64 << 20

Read = Callable[[int, int], bytes]
"""Bytes of a device: offset and length in, exactly so many out."""


class NotLvm(ValueError):
    """The device is no physical volume, or its metadata cannot be read."""


@dataclass(frozen=True, slots=True)
class Label:
    """A device that LVM has marked as its own: its identity, and the areas (start, size; bytes)."""

    device_id: str
    areas: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Where the present text lies in an area, and its checksum: another one after any change."""

    area: tuple[int, int]
    offset: int
    size: int
    checksum: int


@dataclass(frozen=True, slots=True)
class Segment:
    """Consecutive bytes of a volume on one device. `start` in the volume, `offset` on `device`."""

    start: int
    length: int
    device: str
    offset: int


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """One volume. Sizes in bytes. `segments`: None where it is more than pieces in a row."""

    name: str
    id: str
    size: int
    writable: bool
    tags: frozenset[str]
    segments: tuple[Segment, ...] | None


@dataclass(frozen=True, slots=True)
class VolumeGroup:
    """A volume group. `seqno` counts its changes. `devices`: identity of each, with its bytes."""

    name: str
    id: str
    seqno: int
    extent_size: int
    tags: frozenset[str]
    devices: Mapping[str, int]
    volumes: Mapping[str, LogicalVolume]

    @property
    def total(self) -> int:
        """Bytes that volumes can have."""
        return sum(self.devices.values())

    @property
    def used(self) -> int:
        """Bytes that volumes have."""
        return sum(volume.size for volume in self.volumes.values())


def read_label(read: Read) -> Label:
    """The label of a device; `NotLvm` where there is none."""
    front = read(0, LABEL_SECTORS * SECTOR)
    for sector in range(LABEL_SECTORS):
        raw = front[sector * SECTOR : (sector + 1) * SECTOR]
        magic, place, checksum, offset, kind = _LABEL.unpack_from(raw)
        if magic == LABEL_MAGIC and kind == LABEL_TYPE and place == sector:
            if _checksum(raw[20:]) != checksum or not _LABEL.size <= offset < SECTOR - 40:
                raise NotLvm("the label of LVM is damaged")
            return _label(raw, offset)
    raise NotLvm("it has no label of LVM")


def read_place(read: Read, label: Label) -> Text | None:
    """Where the present text is; None where no area is in use."""
    for start, size in label.areas:
        raw = read(start, SECTOR)
        checksum, magic, version, at, length = _AREA_HEADER.unpack_from(raw)
        if magic != AREA_MAGIC or version != 1 or (at, length) != (start, size):
            raise NotLvm("an area for the metadata of LVM is damaged")
        if _checksum(raw[4:]) != checksum:
            raise NotLvm("the header of an area for the metadata of LVM is damaged")
        offset, length, text_checksum, flags = _TEXT_PLACE.unpack_from(raw, _AREA_HEADER.size)
        if offset and not flags & IGNORED:
            return Text((start, size), offset, length, text_checksum)
    return None


def read_group(read: Read, place: Text) -> VolumeGroup:
    """The volume group of the text at `place`.

    `NotLvm` where the text does not fit its checksum: it was replaced in this moment, or damaged.
    """
    start, size = place.area
    if not SECTOR <= place.offset < size or not 0 < place.size <= min(size - SECTOR, _MOST_TEXT):
        raise NotLvm("the metadata of LVM is said to lie outside of its area")
    straight = min(place.size, size - place.offset)
    raw = read(start + place.offset, straight)
    if straight < place.size:  # the area is a ring, and its header is not part of that
        raw += read(start + SECTOR, place.size - straight)
    if _checksum(raw) != place.checksum:
        raise NotLvm("the metadata of LVM does not fit its checksum")
    try:
        return group_of(config_text.parse(raw.decode("utf-8")))
    except ValueError as error:
        raise NotLvm(f"the metadata of LVM: {error}") from error


def group_of(document: Section) -> VolumeGroup:
    """The volume group that a text describes; ValueError where something is missing."""
    names = [name for name, content in document.items() if isinstance(content, dict)]
    if len(names) != 1:
        raise ValueError(f"{len(names)} volume groups in one text")
    group = config_text.section(document, names[0])
    extent = config_text.number(group, "extent_size") * SECTOR
    physical = config_text.section(group, "physical_volumes")
    devices: dict[str, tuple[str, int]] = {}
    sizes: dict[str, int] = {}
    for name in physical:
        device = config_text.section(physical, name)
        identity = config_text.string(device, "id")
        devices[name] = identity, config_text.number(device, "pe_start") * SECTOR
        sizes[identity] = config_text.number(device, "pe_count") * extent
    logical = config_text.section(group, "logical_volumes")
    volumes = {
        name: _volume(name, config_text.section(logical, name), extent, devices) for name in logical
    }
    return VolumeGroup(
        names[0],
        config_text.string(group, "id"),
        config_text.number(group, "seqno"),
        extent,
        frozenset(config_text.strings(group, "tags")),
        sizes,
        volumes,
    )


def _volume(
    name: str, volume: Section, extent: int, devices: Mapping[str, tuple[str, int]]
) -> LogicalVolume:
    size = 0
    segments: list[Segment] | None = []
    for index in range(1, config_text.number(volume, "segment_count") + 1):
        part = config_text.section(volume, f"segment{index}")
        start = config_text.number(part, "start_extent") * extent
        length = config_text.number(part, "extent_count") * extent
        size += length
        stripes = part.get("stripes")
        single = part.get("type") == "striped" and part.get("stripe_count") == 1
        plain = isinstance(stripes, list) and len(stripes) == 2 and stripes[0] in devices
        if not single or not plain:
            segments = None
        elif segments is not None:
            device, data_start = devices[str(part["stripes"][0])]
            place = (
                data_start + config_text.number({"extent": part["stripes"][1]}, "extent") * extent
            )
            segments.append(Segment(start, length, device, place))
    return LogicalVolume(
        name,
        config_text.string(volume, "id"),
        size,
        "WRITE" in config_text.strings(volume, "status"),
        frozenset(config_text.strings(volume, "tags")),
        None if segments is None else tuple(segments),
    )


def _label(raw: bytes, offset: int) -> Label:
    identity = raw[offset : offset + 32].decode("ascii", "replace")
    position = offset + 40  # behind the identity and the size of the device
    lists: list[list[tuple[int, int]]] = []
    for _ in range(2):  # first the areas for data, then those for metadata; each ends with zeroes
        found: list[tuple[int, int]] = []
        while position + _RANGE.size <= SECTOR:
            entry: tuple[int, int] = _RANGE.unpack_from(raw, position)
            position += _RANGE.size
            if not entry[0]:
                break
            found.append(entry)
        lists.append(found)
    return Label(dashed(identity), tuple(lists[1]))


def dashed(identity: str) -> str:
    """An identity as LVM writes it in texts: 32 characters in groups of 6-4-4-4-4-4-6."""
    places = (0, 6, 10, 14, 18, 22, 26, 32)
    return "-".join(identity[a:b] for a, b in pairwise(places))


def _checksum(data: bytes) -> int:
    return zlib.crc32(data, _CHECKSUM_START ^ 0xFFFFFFFF) ^ 0xFFFFFFFF
