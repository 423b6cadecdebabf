"""A driver of a few lines: images in a folder in memory, called by a name. For tests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

from sm.attachment import Attachment
from sm.block import given
from sm.cowutil.registry import FORMATS
from sm.drivers import directory
from sm.errors import SmError
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr, SrDriver
from tests.drivers.contract.place import Place

MEMORY = Path("/dev/shm")


class MemorySr(SrDriver):
    """Images in the folder `/dev/shm/<device_config:name>`."""

    info = DriverInfo(
        sr_type="memory",
        name="Memory SR",
        description="Keeps virtual disks in memory until the next boot",
        features=directory.FEATURES,
        configuration=(("name", "what the folder is called"), directory.PREFERRED),
        image_formats=tuple(FORMATS),
    )

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        uuid = directory.holds(_folder(device_config))
        return [FoundSr(uuid)] if uuid is not None else []

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        directory.take(_folder(device_config), sr_uuid, "FileSRCreate")

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        folder = _folder(device_config)
        directory.require(folder, sr_uuid)
        return self.attachments.directory(sr_uuid, self.info.sr_type, folder)

    def detach(self, attachment: Attachment) -> None:
        """Nothing to release."""


def _folder(device_config: Mapping[str, str]) -> Path:
    name = given.text(device_config, "name")
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,60}", name):
        raise SmError(f"name {name[:60]!r}", name="InvalidArg")
    return MEMORY / f"sm-{name}"


class MemoryPlace(Place):
    """A name that nobody has."""

    driver = MemorySr

    def device_config(self) -> dict[str, str]:
        return {"name": f"test-{self.folder.stat().st_ino}"}

    def foreign(self) -> dict[str, str]:
        config = {"name": f"full-{self.folder.stat().st_ino}"}
        _folder(config).mkdir()
        (_folder(config) / "letter.txt").write_text("dear")
        return config

    def foreign_content(self) -> bytes:
        folder = _folder({"name": f"full-{self.folder.stat().st_ino}"})
        return b"".join(path.read_bytes() for path in folder.iterdir())

    def close(self) -> None:
        for folder in MEMORY.glob(f"sm-*-{self.folder.stat().st_ino}"):
            for path in sorted(folder.rglob("*"), reverse=True):
                path.rmdir() if path.is_dir() else path.unlink()
            folder.rmdir()
