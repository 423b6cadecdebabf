"""The File SR: images as files in a folder of this host."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from sm import plugin
from sm.attachment import Attachment
from sm.block import given
from sm.cowutil.registry import FORMATS
from sm.drivers import directory
from sm.errors import SmError
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr, SrDriver

LOCATION = "location"


class FileSr(SrDriver):
    """Images in the folder `device_config:location`."""

    info = DriverInfo(
        sr_type="file",
        name="File SR",
        description="Keeps virtual disks as files in a folder",
        features=directory.FEATURES,
        configuration=(
            (LOCATION, "absolute path of the folder that holds the images"),
            directory.PREFERRED,
        ),
        image_formats=tuple(FORMATS),
    )

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SR that the folder says it holds."""
        folder = _location(device_config)
        uuid = directory.holds(folder)
        if uuid is None:
            return []
        return [FoundSr(uuid, (str(folder),), directory.size(folder))]

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Take a new or empty folder; `size` has no meaning for a folder."""
        directory.take(_location(device_config), sr_uuid, "FileSRCreate")

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """Check that the folder is there and holds this SR and no other."""
        folder = _location(device_config)
        directory.require(folder, sr_uuid)
        return self.attachments.directory(sr_uuid, self.info.sr_type, folder)

    def detach(self, attachment: Attachment) -> None:
        """See that nothing is left to release: a folder is not mounted for us."""


def _location(device_config: Mapping[str, str]) -> Path:
    text = given.text(device_config, LOCATION)
    if not text:
        raise SmError(name="ConfigLocationMissing")
    path = Path(text)
    if not path.is_absolute() or ".." in path.parts:
        raise SmError(f"{text!r} is not an absolute path", name="InvalidArg")
    return path


def main() -> None:
    """Answer one call: the executable `FileSR`."""
    plugin.main(FileSr)
