"""Which SRs are attached on this host, and how to reach their volumes.

A driver says so when it attaches; everything else, the collector included, opens the store from
here and need not know the driver. True until the host boots again.

A record that cannot be read is an error for its SR alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sm import decode, durable
from sm.config import Settings
from sm.cowutil.registry import Formats
from sm.errors import SrUnavailable, StateUnreadable
from sm.owner import boot_id
from sm.volumes.base import VolumeStore
from sm.volumes.registry import open_store

log = logging.getLogger(__name__)

_MEMBERS: Mapping[str, decode.Types] = {
    "sr_uuid": (str,),
    "sr_type": (str,),
    "store": (str,),
    "place": (dict,),
    "boot": (str,),
}


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
        """The volume store, which need not be what was attached any more."""
        return open_store(self.store, self.place, formats, settings)


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
        """The attachment of an SR, if there is one since the last boot.

        Raises `StateUnreadable` where that cannot be known.
        """
        path = self._path(sr_uuid)
        try:
            found = Attachment(**decode.members(durable.read_file(path), _MEMBERS))
            if found.sr_uuid != sr_uuid:
                raise ValueError(f"it is of SR {found.sr_uuid[:40]!r}")
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise StateUnreadable(
                f"whether SR {sr_uuid} is attached cannot be known: {path}: {error}"
            ) from error
        return found if found.boot == boot_id() else None

    def require(self, sr_uuid: str) -> Attachment:
        """The attachment of an SR; raises `SrUnavailable` when it is not attached."""
        found = self.find(sr_uuid)
        if found is None:
            raise SrUnavailable(f"SR {sr_uuid} is not attached on this host")
        return found

    def all(self) -> list[Attachment]:
        """The attachments of all SRs that are attached now, but for those that cannot be read."""
        found = []
        for uuid in self._named():
            try:
                attachment = self.find(uuid)
            except StateUnreadable as error:
                log.warning("%s", error)
                continue
            if attachment is not None:
                found.append(attachment)
        return found

    def unreadable(self) -> dict[str, str]:
        """UUID of each SR whose attachment cannot be read, and why."""
        found = {}
        for uuid in self._named():
            try:
                self.find(uuid)
            except StateUnreadable as error:
                found[uuid] = error.detail
        return found

    def set_aside(self, sr_uuid: str) -> None:
        """Give the record of an SR another name, under which it counts for nothing."""
        path = self._path(sr_uuid)
        durable.rename(path, path.with_suffix(f".aside-{time.time_ns()}"))

    def _named(self) -> list[str]:
        uuids = sorted(path.stem for path in self._folder.glob("*.json"))
        return [uuid for uuid in uuids if not uuid.startswith(durable.TEMPORARY_PREFIX)]

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
