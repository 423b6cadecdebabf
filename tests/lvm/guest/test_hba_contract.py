"""The contract of drivers, kept by the HBA driver with an adapter that the kernel only pretends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.block.scsi import units
from sm.drivers.hba import LvmOverHbaSr
from tests.drivers.contract.place import Place
from tests.drivers.contract.suite import (  # noqa: F401 - what is tried here
    host,
    test_a_probe_finds_what_was_created_and_leaves_nothing,
    test_attach_and_detach_may_be_repeated,
    test_hostile_values_are_refused,
    test_it_says_what_it_can_and_how_it_is_reached,
)
from tests.support.lvm.loop import remove_mapped
from tests.support.lvm.tools import call
from tests.support.patience import until
from tests.support.servers.kernel import require_guest

pytestmark = pytest.mark.world


class HbaPlace(Place):
    """A unit in the memory of the kernel."""

    driver = LvmOverHbaSr
    formats = ("vhd",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        require_guest()
        call("modprobe", "sd_mod")
        call("modprobe", "scsi_debug", "dev_size_mb=256", "delay=0")
        until(lambda: len(units(Path("/sys"))) == 1)
        (self.unit,) = units(Path("/sys"))

    def device_config(self) -> dict[str, str]:
        return {"SCSIid": self.unit.scsi_id}

    def foreign(self) -> dict[str, str]:
        call("mkfs.ext4", "-q", "-F", self.unit.device)
        return self.device_config()

    def foreign_content(self) -> bytes:
        return self.unit.device.read_bytes()

    def held(self) -> set[str]:
        return set(call("dmsetup", "ls").splitlines()) - {"No devices found"}

    def close(self) -> None:
        remove_mapped(self.unit.device)
        call("modprobe", "--remove", "scsi_debug")


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    """A new unit."""
    made = HbaPlace(tmp_path)
    yield made
    made.close()
