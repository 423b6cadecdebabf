"""The datapaths of this host, and which one serves a chain."""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from functools import cached_property

from sm.config import Settings
from sm.cowutil.base import ImageRef
from sm.datapath.base import Datapath, Disk, Served
from sm.errors import Unimplemented


class Datapaths:
    """Every kind of datapath that this host can use, the preferred one first."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    @cached_property
    def kinds(self) -> tuple[Datapath, ...]:
        """Tapdisk where it is installed or configured; then those that need no Xen."""
        # Only activation and merges come here; other commands must not pay for the imports.
        from sm.datapath.qsd.datapath import QsdDatapath  # noqa: PLC0415
        from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath  # noqa: PLC0415

        folder = self._settings.run / "datapath"
        found: list[Datapath] = [QsdDatapath(folder), VhdNbdDatapath(folder)]
        if self._has_tapdisk:
            from sm.datapath.tapdisk.datapath import TapdiskDatapath  # noqa: PLC0415

            settings = self._settings
            tapdisk = TapdiskDatapath(
                folder,
                control=settings.tapdisk_control,
                binary=settings.tapdisk,
                merges_into_parent=settings.tapdisk_merges_into_parent,
            )
            found.insert(0, tapdisk)
        return tuple(found)

    @property
    def _has_tapdisk(self) -> bool:
        wanted = self._settings.datapath
        return wanted == "tapdisk" or (
            wanted == "auto" and shutil.which(self._settings.tapdisk) is not None
        )

    def for_chain(self, chain: Sequence[ImageRef]) -> Datapath:
        """The first that can serve all formats of a chain; raises `Unimplemented`."""
        return self.for_formats({image.format for image in chain})

    def for_formats(self, formats: Collection[str]) -> Datapath:
        """The first that can serve a chain of images of these formats; raises `Unimplemented`."""
        for datapath in self.kinds:
            if datapath.formats.issuperset(formats):
                return datapath
        raise Unimplemented(f"no datapath serves a chain of {' and '.join(sorted(formats))}")

    def find(self, disk: Disk) -> tuple[Datapath, Served] | None:
        """The process of a disk, whichever kind it is."""
        for datapath in self.kinds:
            served = datapath.find(disk)
            if served is not None:
                return datapath, served
        return None

    def close(self, disk: Disk) -> None:
        """Stop serving a disk, and clear what a process that has ended left."""
        for datapath in self.kinds:
            datapath.close(disk)

    def served(self) -> list[Served]:
        """Every disk that this host serves."""
        return [served for datapath in self.kinds for served in datapath.served()]
