"""The File SR: images as files in a folder of this host."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from sm import plugin
from sm.attachment import Attachment
from sm.cowutil.registry import FORMATS
from sm.errors import SmError, SrExists, SrUnavailable
from sm.smapi.driver_info import DriverInfo
from sm.sr import SR_RECORD, FoundSr, SrDriver, mark, marked
from sm.volumes.directory import RECORDS, DirectoryStore, identity

LOCATION = "location"


class FileSr(SrDriver):
    """Images in the folder `device_config:location`."""

    info = DriverInfo(
        sr_type="file",
        name="File SR",
        description="Keeps virtual disks as files in a folder",
        features=(
            "SR_PROBE",
            "SR_UPDATE",
            "VDI_CREATE",
            "VDI_DELETE",
            "VDI_ATTACH",
            "VDI_DETACH",
            "VDI_ACTIVATE",
            "VDI_DEACTIVATE",
            "VDI_SNAPSHOT",
            "VDI_CLONE",
            "VDI_RESIZE",
            "VDI_UPDATE",
            "VDI_INTRODUCE",
            "VDI_COMPOSE",
            "VDI_GENERATE_CONFIG",
            "LARGE_VDI",
            "THIN_PROVISIONING",
        ),
        configuration=(
            (LOCATION, "absolute path of the folder that holds the images"),
            ("preferred-image-formats", "formats for new disks, best first, by commas"),
        ),
        image_formats=tuple(FORMATS),
    )

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SR that the folder says it holds."""
        folder = _location(device_config)
        uuid = _holds(folder)
        if uuid is None:
            return []
        size = os.statvfs(folder).f_blocks * os.statvfs(folder).f_frsize
        return [FoundSr(uuid, (str(folder),), size)]

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Take a new or empty folder; `size` has no meaning for a folder."""
        folder = _location(device_config)
        holds = _holds(folder)
        if holds is not None:
            raise SrExists(f"{folder} holds SR {holds}")
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            found = sorted(path.name for path in folder.iterdir() if path.name != "lost+found")
        except OSError as error:
            raise SmError(f"{folder}: {error.strerror}", name="FileSRCreate") from error
        if found:
            raise SrExists(f"{folder} is not empty: {', '.join(found[:5])}")
        DirectoryStore(folder, identity(folder), ()).write_record(SR_RECORD, mark(sr_uuid))

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """Check that the folder is there and holds this SR and no other."""
        folder = _location(device_config)
        if not folder.is_dir():
            raise SrUnavailable(f"{folder} is not a folder")
        holds = _holds(folder)
        if holds not in (None, sr_uuid):
            raise SrUnavailable(f"{folder} holds SR {holds}, not {sr_uuid}")
        return self.attachments.directory(sr_uuid, self.info.sr_type, folder)

    def detach(self, attachment: Attachment) -> None:
        """See that nothing is left to release: a folder is not mounted for us."""


def _location(device_config: Mapping[str, str]) -> Path:
    text = device_config.get(LOCATION, "")
    if not text:
        raise SmError(name="ConfigLocationMissing")
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise SmError(f"{text!r} is not an absolute path", name="InvalidArg")
    return path


def _holds(folder: Path) -> str | None:
    try:
        return marked((folder / RECORDS / SR_RECORD).read_bytes())
    except (FileNotFoundError, NotADirectoryError):
        return None


def main() -> None:
    """Answer one call: the executable `FileSR`."""
    plugin.main(FileSr)
