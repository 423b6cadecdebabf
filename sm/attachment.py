"""Which SRs are attached on this host, and how to reach their volumes.

A driver says so when it attaches; everything else, the collector included, opens the store from
here and need not know the driver. True until the host boots again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sm import durable
from sm.config import Settings
from sm.cowutil.registry import Formats
from sm.errors import SrUnavailable
from sm.owner import boot_id
from sm.volumes.base import VolumeStore
from sm.volumes.registry import open_store


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attached SR. `store` is the kind of volume store, `place` what that needs to be opened.

    All of `place` can be said in JSON.
    """

    sr_uuid: str
    sr_type: str
    store: str
    place: Mapping[str, Any]
    boot: str

    def open_store(self, formats: Formats, settings: Settings) -> VolumeStore:
        """The volume store; raises `SrUnavailable` when it is no longer what was attached."""
        store = open_store(self.store, self.place, formats, settings)
        store.require_present()
        return store


class Attachments:
    """The attachments recorded in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def directory(self, sr_uuid: str, sr_type: str, path: Path) -> Attachment:
        """Describe an SR whose images are files in `path`."""
        from sm.volumes.directory import place_of  # noqa: PLC0415 - only the kind in use

        return self.describe(sr_uuid, sr_type, "directory", place_of(path))

    def describe(
        self, sr_uuid: str, sr_type: str, store: str, place: Mapping[str, Any]
    ) -> Attachment:
        """Describe an SR that is reachable on this host from now until it boots again."""
        return Attachment(sr_uuid, sr_type, store, place, boot_id())

    def find(self, sr_uuid: str) -> Attachment | None:
        """The attachment of an SR, if there is one since the last boot."""
        try:
            content = json.loads(self._path(sr_uuid).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        found = Attachment(**content)
        return found if found.boot == boot_id() else None

    def require(self, sr_uuid: str) -> Attachment:
        """The attachment of an SR; raises `SrUnavailable` when it is not attached."""
        found = self.find(sr_uuid)
        if found is None:
            raise SrUnavailable(f"SR {sr_uuid} is not attached on this host")
        return found

    def all(self) -> list[Attachment]:
        """The attachments of all SRs that are attached now."""
        uuids = sorted(path.stem for path in self._folder.glob("*.json"))
        named = [uuid for uuid in uuids if not uuid.startswith(durable.TEMPORARY_PREFIX)]
        return [found for found in map(self.find, named) if found is not None]

    def since(self, sr_uuid: str) -> float:
        """When an SR was attached, in seconds since 1970; 0 when it is not."""
        try:
            return self._path(sr_uuid).stat().st_mtime
        except FileNotFoundError:
            return 0.0

    def save(self, attachment: Attachment) -> None:
        """Record that an SR is attached."""
        self._folder.mkdir(parents=True, exist_ok=True)
        content = json.dumps(asdict(attachment)).encode("utf-8")
        durable.write_file(self._path(attachment.sr_uuid), content)

    def forget(self, sr_uuid: str) -> None:
        """Record that an SR is not attached."""
        if self._folder.is_dir():
            durable.remove(self._path(sr_uuid))

    def _path(self, sr_uuid: str) -> Path:
        return self._folder / f"{sr_uuid}.json"
