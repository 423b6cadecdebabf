"""Disks and volume groups for tests that need a device-mapper; `make test-lvm` runs them."""

from __future__ import annotations

import itertools
import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm.config import load
from sm.volumes.lvm import making
from tests.support.leftovers import end_processes
from tests.support.lvm.loop import LoopDisk, attached
from tests.support.lvm.tools import call
from tests.support.site import NewSite, Site

MIB = 1 << 20
VOLUME_GROUP_SIZE = 256 * MIB
EXTENT_SIZE = 4 * MIB
LAYOUTS = [
    (allocation, image_format)
    for allocation in ("thick", "thin")
    for image_format in ("vhd", "qcow2")
]
"""All ways to lay out the images of an SR."""


@dataclass(frozen=True)
class VolumeGroup:
    """A volume group on a loop disk."""

    name: str
    disk: LoopDisk

    def path(self, volume: str) -> Path:
        """The name of a volume below /dev."""
        return Path("/dev", self.name, volume)


@pytest.fixture
def device_mapper() -> None:
    """Fails a test where LVM cannot be used, or is not set apart from this machine's own."""
    if "LVM_SYSTEM_DIR" not in os.environ or not Path("/dev/mapper/control").exists():
        pytest.fail("needs a device-mapper and an LVM of its own: run it with `make test-lvm`")


@pytest.fixture
def loop_disk(device_mapper: None, tmp_path: Path) -> Iterator[Callable[[int], LoopDisk]]:
    """Makes disks of as many bytes as it is told; gone in the end, with all mapped onto them."""
    numbers = itertools.count()
    with ExitStack() as stack:
        yield lambda size: stack.enter_context(attached(tmp_path / f"disk{next(numbers)}", size))


@pytest.fixture
def volume_group(loop_disk: Callable[[int], LoopDisk]) -> Iterator[VolumeGroup]:
    """A volume group of 256 MiB with extents of 4 MiB."""
    group = VolumeGroup(f"sm-test-{uuid.uuid4().hex[:8]}", loop_disk(VOLUME_GROUP_SIZE))
    extent = f"{EXTENT_SIZE // MIB}m"
    call("vgcreate", "--physicalextentsize", extent, group.name, group.disk.device)
    yield group
    call("vgremove", "-ff", "--yes", group.name)


class LvmSite(Site):
    """A site whose SRs are volume groups, each on a disk of its own."""

    def __init__(self, folder: Path, disk: Callable[[int], LoopDisk], allocation: str) -> None:
        super().__init__(folder, pool="embedded", thin_spare_mib=16)
        self._new_disk = disk
        self._allocation = allocation
        self.disks: list[LoopDisk] = []

    def create_sr(self, name: str = "store", size: int = 2048 * MIB) -> str:
        """An LVM SR on a new disk; returns its UUID."""
        self.disks.append(self._new_disk(size))
        created = self.sm(
            *("sr", "create", "--name", name, "--type", "lvm"),
            *("--device-config", f"device={self.disks[-1].device}"),
            *("--device-config", f"allocation={self._allocation}"),
        )
        return str(created["uuid"])


@pytest.fixture
def allocation() -> str:
    """How the SRs of `site` allocate; thin in tests that do not care."""
    return "thin"


@pytest.fixture
def site(
    allocation: str, tmp_path: Path, loop_disk: Callable[[int], LoopDisk]
) -> Iterator[LvmSite]:
    """A storage manager whose SRs are volume groups."""
    with made_site(tmp_path, loop_disk, allocation) as made:
        yield made


@pytest.fixture
def new_site(
    allocation: str, tmp_path: Path, loop_disk: Callable[[int], LoopDisk]
) -> Iterator[NewSite]:
    """The same for tests that need several."""
    with ExitStack() as stack:
        yield lambda name: stack.enter_context(made_site(tmp_path / name, loop_disk, allocation))


@contextmanager
def made_site(
    folder: Path, loop_disk: Callable[[int], LoopDisk], allocation: str
) -> Iterator[LvmSite]:
    """One whose SRs allocate in a certain way; its volume groups are gone in the end."""
    made = LvmSite(folder, loop_disk, allocation)
    try:
        yield made
    finally:
        end_processes(str(folder))
        made.release()
        for note in (made.root / "run" / "attached").glob("*.json"):
            making.remove_group(json.loads(note.read_text())["place"], load(made.root))
