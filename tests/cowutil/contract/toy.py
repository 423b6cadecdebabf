"""A copy-on-write format without files: images in a dictionary keyed by path.

It shows what a format must do and no more, and lets everything above formats be tested without a
disk. Its unit is a sector of 512 bytes.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import ClassVar

import numpy as np

from sm.cowutil.base import (
    AT_ONCE,
    CheckReport,
    CowUtil,
    ImageInfo,
    ImageRef,
    Layer,
    ParentLink,
    Progress,
    SizeLimits,
    Steps,
    no_progress,
)
from sm.cowutil.errors import ImageUnsafe, SizeOutOfRange
from sm.cowutil.extents import ExtentMap, Extents, Kind
from sm.cowutil.stream import Measure, Piece, Read

SECTOR = 512


@dataclass(frozen=True)
class ToyImage:
    """One image; `sectors` holds the bytes of each sector that it has by sector number."""

    virtual_size: int
    hidden: bool = False
    parent: ParentLink | None = None
    sectors: dict[int, bytes] = field(default_factory=dict)


class ToyLayer(Layer):
    """An open image."""

    def __init__(self, image: ToyImage) -> None:
        self._image = image
        self.virtual_size = image.virtual_size

    def map(self) -> ExtentMap:
        """One entry for each run of sectors."""
        held = Extents.of((n * SECTOR, (n + 1) * SECTOR) for n in self._image.sectors)
        kind = np.full(len(held), Kind.DATA, dtype=np.uint8)
        return ExtentMap(held.starts, held.ends - held.starts, kind, held.starts)

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer`; ValueError for a byte that the image lacks."""
        done = 0
        while done < len(buffer):
            number, within = divmod(offset + done, SECTOR)
            if number not in self._image.sectors:
                raise ValueError(f"byte {offset + done} is not in this image")
            piece = self._image.sectors[number][within : within + len(buffer) - done]
            buffer[done : done + len(piece)] = piece
            done += len(piece)

    def close(self) -> None:
        """Do nothing: there is no file."""


class ToyFormat(CowUtil):
    """The format; `images` is its disk."""

    name = "toy"
    limits = SizeLimits(minimum=SECTOR, maximum=1 << 40, granularity=SECTOR)
    parent_formats: ClassVar[frozenset[str]] = frozenset({"toy"})
    merged_beside: ClassVar[bool] = True

    def __init__(self, images: MutableMapping[Path, ToyImage]) -> None:
        self.images = images

    def write(self, path: Path, offset: int, data: bytes) -> None:
        """What a datapath would do: write whole sectors."""
        image = self._get(path)
        sectors = dict(image.sectors)
        for position in range(0, len(data), SECTOR):
            sectors[(offset + position) // SECTOR] = data[position : position + SECTOR]
        self.images[path] = replace(image, sectors=sectors)

    def info(self, path: Path) -> ImageInfo:
        image = self._get(path)
        return ImageInfo(path, self.name, image.virtual_size, SECTOR, image.hidden, image.parent)

    def allocated_extents(self, path: Path) -> Extents:
        return self.open_layer(path).map().extents()

    def allocated_size(self, path: Path) -> int:
        return len(self._get(path).sectors) * SECTOR

    def open_layer(self, path: Path) -> ToyLayer:
        return ToyLayer(self._get(path))

    def full_size(self, virtual_size: int) -> int:
        return virtual_size

    def empty_size(self, virtual_size: int) -> int:
        return 0

    def used_size(self, path: Path) -> int:
        return len(self._get(path).sectors) * SECTOR

    def measure(self, virtual_size: int, data: Extents) -> Measure:
        self._require_sectors(virtual_size)
        row = 8 + SECTOR
        sectors = data.clip(0, virtual_size).align(SECTOR).total // SECTOR
        return Measure(8 + sectors * row, 8 + virtual_size // SECTOR * row)

    def stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        """The size, then number and content of each sector."""
        self._require_sectors(virtual_size)
        return self._stream(virtual_size, data.clip(0, virtual_size).align(SECTOR), read)

    def load(self, path: Path, stream: bytes) -> None:
        """Make an image of what was streamed."""
        rows = range(8, len(stream), 8 + SECTOR)
        self.images[path] = ToyImage(
            int.from_bytes(stream[:8]),
            sectors={int.from_bytes(stream[at : at + 8]): stream[at + 8 :][:SECTOR] for at in rows},
        )

    def create(self, path: Path, virtual_size: int) -> None:
        self._require_size(path, virtual_size, SECTOR)
        self._add(path, ToyImage(virtual_size))

    def resize(self, path: Path, virtual_size: int) -> None:
        image = self._get(path)
        self._require_size(path, virtual_size, image.virtual_size)
        self.images[path] = replace(image, virtual_size=virtual_size)

    def check(self, path: Path) -> CheckReport:
        image = self._get(path)
        beyond = [n for n in image.sectors if (n + 1) * SECTOR > image.virtual_size]
        return CheckReport(path, corruptions=tuple(f"sector {n} is beyond the end" for n in beyond))

    def repair(self, path: Path) -> CheckReport:
        return self.check(path)

    def snapshot(self, path: Path, parent: ImageRef, virtual_size: int) -> None:
        self._require_size(path, virtual_size, self._get(parent.path).virtual_size)
        self._add(path, ToyImage(virtual_size, parent=self._link(path, parent)))

    def set_parent(self, path: Path, parent: ImageRef | None) -> None:
        link = None if parent is None else self._link(path, parent)
        self.images[path] = replace(self._get(path), parent=link)

    def set_hidden(self, path: Path, hidden: bool) -> None:
        self.images[path] = replace(self._get(path), hidden=hidden)

    def coalesce(
        self,
        chain: Sequence[ImageRef],
        into: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        target = self._get(chain[into].path)
        merged: dict[int, bytes] = {}
        for member in reversed(chain[:into]):
            merged.update(self._get(member.path).sectors)
        total = len(merged) * SECTOR
        progress(0, total)
        size = max(target.virtual_size, self._get(chain[0].path).virtual_size)
        self.images[chain[into].path] = replace(
            target, virtual_size=size, sectors={**target.sectors, **merged}
        )
        progress(total, total)
        return total

    def pull(
        self,
        chain: Sequence[ImageRef],
        count: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        upper = self._get(chain[0].path)
        shown: dict[int, bytes] = {}
        for member in reversed(chain[1 : count + 1]):
            shown.update(self._get(member.path).sectors)
        new = {number: data for number, data in shown.items() if number not in upper.sectors}
        progress(0, len(new) * SECTOR)
        self.images[chain[0].path] = replace(upper, sectors={**new, **upper.sectors})
        progress(len(new) * SECTOR, len(new) * SECTOR)
        return len(new) * SECTOR

    def _stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        yield virtual_size.to_bytes(8)
        buffer = memoryview(bytearray(SECTOR))
        for start, end in data:
            for at in range(start, end, SECTOR):
                read(at, buffer)
                yield (at // SECTOR).to_bytes(8)
                yield buffer

    def _require_sectors(self, size: int) -> None:
        if size % SECTOR or not 0 < size <= self.limits.maximum:
            raise ValueError(f"no toy image has {size} bytes")

    def _get(self, path: Path) -> ToyImage:
        if path not in self.images:
            raise FileNotFoundError(path)
        return self.images[path]

    def _add(self, path: Path, image: ToyImage) -> None:
        if path in self.images:
            raise FileExistsError(path)
        self.images[path] = image

    def _link(self, path: Path, parent: ImageRef) -> ParentLink:
        if parent.path.parent != path.parent:
            raise ImageUnsafe(path, f"and its parent {parent.path} are not in one folder")
        return ParentLink(parent.path.name, parent.format)

    def _require_size(self, path: Path, size: int, minimum: int) -> None:
        if not minimum <= size <= self.limits.maximum or size % SECTOR:
            raise SizeOutOfRange(path, size, minimum, self.limits.maximum)
