"""The contract of drivers, kept by those that are given block devices of this host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from sm.drivers.ext import ExtSr
from sm.drivers.lvm import LvmSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import *  # noqa: F403 - the suite
from tests.support.lvm.loop import attached
from tests.support.lvm.tools import call

SIZE = 256 << 20


class ExtPlace(Place):
    """A disk, and another one that holds a file system."""

    driver = ExtSr
    formats = ("qcow2",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self._disks = ExitStack()
        self.disk = self._disk("empty")
        self.other = self._disk("other")

    def _disk(self, name: str) -> Path:
        made = attached(self.folder / f"{name}.img", SIZE)
        return self._disks.enter_context(made).device

    def device_config(self) -> dict[str, str]:
        return {"device": str(self.disk)}

    def foreign(self) -> dict[str, str]:
        call("mkfs.ext4", "-q", "-F", self.other)
        return {"device": str(self.other)}

    def foreign_content(self) -> bytes:
        return self.other.read_bytes()

    def held(self) -> set[str]:
        return set(call("dmsetup", "ls").splitlines()) - {"No devices found"}

    def close(self) -> None:
        self._disks.close()


class LvmPlace(ExtPlace):
    """The same, for a volume group whose volumes are the images."""

    driver = LvmSr
    formats = ("qcow2", "vhd", "raw")


pytestmark = pytest.mark.one_in(2)


@pytest.fixture(params=[ExtPlace, LvmPlace])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Place]:
    """Two loop devices."""
    made = request.param(tmp_path)
    yield made
    made.close()
