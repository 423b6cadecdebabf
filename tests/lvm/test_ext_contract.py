"""The contract of drivers, kept by the EXT driver on loop devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.drivers.ext import ExtSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import *  # noqa: F403 - the suite
from tests.support.lvm.tools import call

SIZE = 256 << 20


class ExtPlace(Place):
    """A disk, and another one that holds a file system."""

    driver = ExtSr
    formats = ("qcow2",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.disk = self._disk("empty")
        self.other = self._disk("other")

    def _disk(self, name: str) -> str:
        image = self.folder / f"{name}.img"
        call("truncate", "-s", str(SIZE), image)
        return call("losetup", "--find", "--show", image).strip()

    def device_config(self) -> dict[str, str]:
        return {"device": self.disk}

    def foreign(self) -> dict[str, str]:
        call("mkfs.ext4", "-q", "-F", self.other)
        return {"device": self.other}

    def foreign_content(self) -> bytes:
        return Path(self.other).read_bytes()

    def held(self) -> set[str]:
        return set(call("dmsetup", "ls").splitlines()) - {"No devices found"}

    def close(self) -> None:
        for line in self.held():
            call("dmsetup", "remove", "--force", line.split()[0])
        for device in (self.disk, self.other):
            call("losetup", "--detach", device)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """Two loop devices."""
    made = ExtPlace(tmp_path)
    yield made
    made.close()
