"""Which SRs are attached on this host, and how to reach their volumes.

A driver says so when it attaches; everything else, the collector included, opens the store from
here and need not know the driver. True until the host boots again.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict, dataclass
from pathlib import Path

from sm import durable
from sm.errors import SrUnavailable
from sm.owner import boot_id
from sm.volumes.base import VolumeStore


@dataclass(frozen=True, slots=True)
class Attachment:
    """One attached SR. `store` is the kind of volume store, `path` and `identity` its place."""

    sr_uuid: str
    sr_type: str
    store: str
    path: str
    identity: tuple[int, int]
    boot: str

    def open_store(self, formats: Collection[str]) -> VolumeStore:
        """The volume store; raises `SrUnavailable` when it is no longer what was attached."""
        from sm.volumes.directory import DirectoryStore  # noqa: PLC0415 - only the kind in use

        store = DirectoryStore(Path(self.path), self.identity, formats)
        store.require_present()
        return store


class Attachments:
    """The attachments recorded in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def directory(self, sr_uuid: str, sr_type: str, path: Path) -> Attachment:
        """Describe an SR whose images are files in `path`."""
        from sm.volumes.directory import identity  # noqa: PLC0415 - only the kind in use

        return Attachment(sr_uuid, sr_type, "directory", str(path), identity(path), boot_id())

    def find(self, sr_uuid: str) -> Attachment | None:
        """The attachment of an SR, if there is one since the last boot."""
        try:
            content = json.loads(self._path(sr_uuid).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        content["identity"] = tuple(content["identity"])
        found = Attachment(**content)
        return found if found.boot == boot_id() else None

    def require(self, sr_uuid: str) -> Attachment:
        """The attachment of an SR; raises `SrUnavailable` when it is not attached."""
        found = self.find(sr_uuid)
        if found is None:
            raise SrUnavailable(f"SR {sr_uuid} is not attached on this host")
        return found

    def present(self) -> list[str]:
        """The UUIDs of the SRs that are attached since the last boot."""
        found = [self.find(path.stem) for path in sorted(self._folder.glob("[!.]*.json"))]
        return [attachment.sr_uuid for attachment in found if attachment is not None]

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
