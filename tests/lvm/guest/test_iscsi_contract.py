"""The contract of drivers, kept by the iSCSI driver with a target of the kernel."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.block.iscsi import sessions
from sm.drivers.iscsi import LvmOverIscsiSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import (  # noqa: F401 - what is tried here
    host,
    test_a_probe_finds_what_was_created_and_leaves_nothing,
    test_attach_and_detach_may_be_repeated,
    test_hostile_values_are_refused,
    test_it_says_what_it_can_and_how_it_is_reached,
)
from tests.support.lvm.tools import call
from tests.support.servers.iscsi import IscsiServer

pytestmark = pytest.mark.world

SIZE = 256 << 20


class IscsiPlace(Place):
    """A unit of a target, and another one that holds a file system."""

    driver = LvmOverIscsiSr
    formats = ("qcow2",)

    def __init__(self, folder: Path, server: IscsiServer) -> None:
        super().__init__(folder)
        self.server = server
        self.unit = server.add_unit(self._image("empty"))

    def _image(self, name: str) -> Path:
        image = self.folder / f"{name}.img"
        call("truncate", "-s", str(SIZE), image)
        return image

    def device_config(self) -> dict[str, str]:
        return {"target": "127.0.0.1", "targetIQN": self.server.iqn, "SCSIid": self.unit}

    def foreign(self) -> dict[str, str]:
        image = self._image("other")
        call("mkfs.ext4", "-q", "-F", image)
        return {**self.device_config(), "SCSIid": self.server.add_unit(image)}

    def foreign_content(self) -> bytes:
        return (self.folder / "other.img").read_bytes()

    def held(self) -> set[str]:
        mapped = set(call("dmsetup", "ls").splitlines()) - {"No devices found"}
        return mapped | {each.iqn for each in sessions(Path("/sys"))}


@pytest.fixture
def place(iscsi_server: IscsiServer, tmp_path: Path) -> Iterator[Place]:
    """Units of their own."""
    made = IscsiPlace(tmp_path, iscsi_server)
    yield made
    made.close()
