"""The datapaths of this host, and which one serves a chain.

Which kind serves a disk that is activated now is what the settings say. A process that runs already
was started under settings of another time, so whoever looks for processes asks every kind that has
a note, and a note has all that its process needs to be reached.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Sequence
from functools import cached_property

from sm.config import Settings
from sm.cowutil.base import ImageRef
from sm.datapath.base import Datapath, Disk, Served
from sm.datapath.losses import Losses
from sm.datapath.state import Notes
from sm.errors import Unimplemented

TAPDISK, QSD, VHD_NBD = KINDS = "tapdisk", "qsd", "vhd_nbd"
"""The names of all kinds, which are those of the folders of their notes."""


class Datapaths:
    """Every kind of datapath of this host."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._folder = settings.run / "datapath"
        self._made: dict[str, Datapath] = {}

    @cached_property
    def kinds(self) -> tuple[Datapath, ...]:
        """Those that disks are activated with, the preferred one first.

        Tapdisk where it is installed or configured; then those that need no Xen.
        """
        wanted = (TAPDISK, QSD, VHD_NBD) if self._has_tapdisk else (QSD, VHD_NBD)
        return tuple(self._kind(name) for name in wanted)

    @property
    def _has_tapdisk(self) -> bool:
        wanted = self._settings.datapath
        return wanted == "tapdisk" or (
            wanted == "auto" and shutil.which(self._settings.tapdisk) is not None
        )

    def _kind(self, name: str) -> Datapath:
        """One kind; only what activates, merges or finds a note pays for its imports."""
        if name not in self._made:
            self._made[name] = self._make(name)
        return self._made[name]

    def _make(self, name: str) -> Datapath:
        if name == QSD:
            from sm.datapath.qsd.datapath import QsdDatapath  # noqa: PLC0415 - see _kind

            return QsdDatapath(self._folder)
        if name == VHD_NBD:
            from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath  # noqa: PLC0415 - see _kind

            return VhdNbdDatapath(self._folder)
        from sm.datapath.tapdisk.datapath import TapdiskDatapath  # noqa: PLC0415 - see _kind

        return TapdiskDatapath(
            self._folder,
            control=self._settings.tapdisk_control,
            binary=self._settings.tapdisk,
            merges_into_parent=self._settings.tapdisk_merges_into_parent,
        )

    def noted(self, disk: Disk | None = None) -> list[Datapath]:
        """The kinds that have a note, of one disk or of any."""
        found = []
        for name in KINDS:
            notes = Notes(self._folder / name)
            if notes.any() if disk is None else notes.has(disk):
                found.append(self._kind(name))
        return found

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
        for datapath in self.noted(disk):
            served = datapath.find(disk)
            if served is not None:
                return datapath, served
        return None

    def settle(self, disk: Disk) -> tuple[Datapath, Served] | None:
        """As `find`, with what is half started ended. The disk's lock is held.

        So a process that this does not find will not come up later.
        """
        for datapath in self.noted(disk):
            datapath.settle(disk)
        return self.find(disk)

    def in_use(self) -> dict[Disk, bool]:
        """The disks that processes of this host have open, or are about to; whether to write.

        By their notes alone.
        """
        found: dict[Disk, bool] = {}
        for name in KINDS:
            for note in Notes(self._folder / name):
                if note.alive or note.starting:
                    found[note.disk] = found.get(note.disk, False) or not note.read_only
        return found

    def half_started(self) -> list[Disk]:
        """The disks of which a start was noted that has not come to its end."""
        return [disk for datapath in self.noted() for disk in datapath.half_started()]

    def close(self, disk: Disk) -> None:
        """Stop serving a disk, and clear what a process that has ended left."""
        for datapath in self.noted(disk):
            datapath.close(disk)

    def tell_losses(self, disk: Disk) -> None:
        """Raise `DatapathFailed` where a disk lost something when it was served here last."""
        for name in KINDS:
            Losses(self._folder / name).tell(disk)

    def served(self) -> list[Served]:
        """Every disk that this host serves."""
        return [served for datapath in self.noted() for served in datapath.served()]
