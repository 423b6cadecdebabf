"""Disks and volume groups for tests that need a device-mapper; `make test-lvm` runs them."""

from __future__ import annotations

import itertools
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.lvm.loop import LoopDisk, attached
from tests.support.lvm.tools import call

MIB = 1 << 20
VOLUME_GROUP_SIZE = 256 * MIB
EXTENT_SIZE = 4 * MIB


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
