"""The volume with the names of the disks: read from the devices, written by the SR master alone.

What a crash leaves is one volume under a name of ours, not made to the end, or a volume whose seal
does not fit; the next change writes whatever is not as it should be.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from dataclasses import dataclass

from sm.errors import SmError
from sm.volumes.described import Catalogue, Keep
from sm.volumes.lvm import mgt, sizes
from sm.volumes.lvm.blocks import write_blocks
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.mgt import About
from sm.volumes.lvm.mgt_text import SECTOR
from sm.volumes.lvm.names import GROUP_PREFIX, NAMES
from sm.volumes.lvm.sizes import Allocation

log = logging.getLogger(__name__)

VOLUME_SIZE = 4 << 20


@dataclass(frozen=True, slots=True)
class _Present:
    """The volume as it is: its size, what is in use (`problem`: why nothing is), its last block."""

    size: int
    raw: bytes
    last: bytes
    problem: str = ""


class NameVolume:
    """The names in one volume group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def read(self) -> tuple[About, Catalogue] | None:
        """What is remembered; None where there is no volume for it.

        Raises `MetadataError` where all of it is damaged.
        """
        present = self._present()
        if present is None:
            return None
        if present.problem:
            raise SmError(f"{self._group.name}/{NAMES}: {present.problem}", name="MetadataError")
        if mgt.is_sealed(present.raw, present.last) is False:
            log.warning(
                "%s: a change of %s was interrupted, or another manager made it; some names may be"
                " those before",
                self._group.name,
                NAMES,
            )
        return mgt.read(present.raw)

    def is_written(self, allocation: Allocation, catalogue: Catalogue, keep: Keep) -> bool:
        """Whether `write` would find nothing to do."""
        present = self._present()
        if present is None:
            return False
        wanted = self._following(present, allocation, catalogue, keep)
        return wanted == present.raw and bool(mgt.is_sealed(wanted, present.last))

    def write(self, allocation: Allocation, catalogue: Catalogue, keep: Keep) -> None:
        """Have the volume say this, and be there; see `VolumeStore.describe`."""
        with self._group.locked("names"):
            present = self._present()
            if present is None:
                self._make(self._following(_Present(0, b"", b""), allocation, catalogue, keep))
                return
            wanted = self._following(present, allocation, catalogue, keep)
            if wanted == present.raw and mgt.is_sealed(wanted, present.last):
                return
            size = present.size
            if len(wanted) > mgt.capacity(size):
                size = self._size_for(wanted)
                self._group.extend(NAMES, size)
            self._group.prepare([NAMES])
            generation = mgt.generation(present.last) + 1
            self._put(NAMES, mgt.writes(present.raw, wanted, size, generation))

    def _make(self, wanted: bytes) -> None:
        """Add the volume, under another name until it is whole."""
        unfinished = f"new-{NAMES}"
        size = self._size_for(wanted)
        self._group.remove(unfinished)
        self._group.create(unfinished, size)
        self._group.prepare([unfinished])
        self._put(unfinished, mgt.writes(b"", wanted, size))
        self._group.rename(unfinished, NAMES)

    def _put(self, name: str, writes: Iterable[tuple[int, bytes]]) -> None:
        for offset, raw in writes:
            write_blocks(self._group.path(name), offset, raw)

    def _size_for(self, wanted: bytes) -> int:
        needed = max(VOLUME_SIZE, len(wanted) + mgt.BLOCK)
        return sizes.rounded(needed, self._group.now().extent_size)

    def _following(
        self, present: _Present, allocation: Allocation, catalogue: Catalogue, keep: Keep
    ) -> bytes:
        about = About(self._group.name.removeprefix(GROUP_PREFIX), str(allocation))
        try:
            return mgt.following(present.raw, about, catalogue, keep)
        except ValueError as error:
            raise SmError(f"{self._group.name}/{NAMES}: {error}", name="MetadataError") from error

    def _present(self) -> _Present | None:
        with self._group.opened() as view:
            volume = view.group.volumes.get(NAMES)
            if volume is None:
                return None
            last = view.read(volume, max(0, volume.size - mgt.BLOCK), mgt.BLOCK)
            try:
                length = mgt.used(view.read(volume, 0, SECTOR), volume.size)
            except mgt.Damaged as error:
                return _Present(volume.size, b"", last, str(error))
            except mgt.Unknown as error:
                problem = f"{self._group.name}/{NAMES}: {error}; it is left as it is"
                raise SmError(problem, name="MetadataError") from error
            return _Present(volume.size, view.read(volume, 0, length), last)
