"""What is done outside of this host's datapaths for a disk that grows: room, and telling people."""

from __future__ import annotations

import logging
from dataclasses import dataclass

from sm import keys
from sm.config import Settings
from sm.datapath.base import Disk, Level
from sm.errors import DuplicateKey, SmError
from sm.hosts.calls import ask
from sm.pool.base import Pool
from sm.repository import Repository
from sm.thin.marks import Trouble

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Waits:
    """That users wait: for `missing` bytes, or for the SR master to answer."""

    trouble: Trouble
    missing: int

    @property
    def mark(self) -> tuple[str, str]:
        """The key in the VDI's sm-config, and its value."""
        if self.trouble is Trouble.NO_SPACE:
            return keys.WAITS_FOR_SPACE, str(self.missing)
        return keys.WAITS_FOR_MASTER, str(self.missing)


class Giver:
    """Acts for one disk. Everything is opened anew for each call: the master may be another one."""

    def __init__(self, settings: Settings, pool: Pool, disk: Disk, image_format: str) -> None:
        self._settings = settings
        self._pool = pool
        self._disk = disk
        self._format = image_format

    def full_size(self) -> int:
        """What the volume needs for every byte of the disk. Raises `SmError`."""
        repository = self._open()
        size = repository.vdi(self._disk.vdi).virtual_size
        return repository.formats.get(self._format).full_size(size)

    def give(self, wanted: int, level: Level) -> None:
        """Have the volume of a disk at `level` made `wanted` bytes, and follow that here.

        Raises what the master raises: `SrNoSpace`; anything else may have been done or not.
        """
        repository, vdi = self._open(), self._disk.vdi
        told = {"now": str(wanted), "size": str(level.size), "format": self._format}
        try:
            ask(repository, repository.master, "give_room", vdi_uuid=vdi, **told)
        finally:
            repository.store.prepare([(vdi, self._format)])

    def tell(self, waits: Waits | None) -> None:
        """Say in the VDI's record whether its users wait, and what for. Raises `SmError`."""
        repository = self._open()
        record = repository.vdi(self._disk.vdi)
        wanted = {} if waits is None else dict([waits.mark])
        for key in keys.WAITS:
            if key in record.sm_config and record.sm_config[key] != wanted.get(key):
                repository.pool.remove_from_vdi_sm_config(record.ref, key)
        for key, value in wanted.items():
            if record.sm_config.get(key) != value:
                try:
                    repository.pool.add_to_vdi_sm_config(record.ref, key, value)
                except DuplicateKey as error:
                    raise SmError(f"{key} of {self._disk.vdi} was set by somebody else") from error

    def _open(self) -> Repository:
        return Repository.open(self._disk.sr, self._settings, self._pool)
