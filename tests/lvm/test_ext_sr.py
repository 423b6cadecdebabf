"""What only the EXT driver has: what it refuses, crashes in create, damaged file systems."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from sm import process
from sm.block.mounts import mounted_at
from sm.drivers.ext import PREFIX, ExtSr
from sm.errors import SmError
from tests.drivers.contract.host import Host
from tests.lvm.conftest import MIB
from tests.support.lvm.loop import LoopDisk
from tests.support.lvm.tools import call

pytestmark = pytest.mark.world

Disks = Callable[[int], LoopDisk]


@pytest.fixture(autouse=True)
def _no_mount_is_left(tmp_path: Path, loop_disk: Disks) -> Iterator[None]:
    """Before the disks go away, so do the file systems on them."""
    yield
    for folder in tmp_path.glob("*/run/sr-mount/*"):
        if mounted_at(folder) is not None:
            call("umount", folder)


def made(root: Path, *devices: Path) -> Host:
    """A host that is to use these devices."""
    return Host(root, ExtSr, {"device": ",".join(map(str, devices))})


def test_several_devices_are_one(loop_disk: Disks, tmp_path: Path) -> None:
    disks = [loop_disk(128 * MIB), loop_disk(128 * MIB)]
    host = made(tmp_path / "root", *(disk.device for disk in disks))
    host.make()
    assert host.pool.sr(host.sr_ref).physical_size > 200 * MIB
    options = Path("/proc/mounts").read_text().split(host.sr_uuid)[-1].split("\n")[0]
    for expected in ("ext4", "nodev", "nosuid", "noexec"):
        assert expected in options
    host.call("sr_detach")
    only_one = {"device": str(disks[0].device), "SRmaster": "true"}
    assert host.refused("sr_attach", device_config=only_one).code in (47, 52)
    assert not Path("/dev", PREFIX + host.sr_uuid).exists()


def test_devices_in_use_and_others_are_refused(loop_disk: Disks, tmp_path: Path) -> None:
    disk = loop_disk(64 * MIB)
    file = tmp_path / "file"
    file.write_bytes(b"dear")
    link = tmp_path / "link"
    link.symlink_to(disk.device)

    def refused(*devices: Path | str) -> int:
        config = {"device": ",".join(map(str, devices)), "SRmaster": "true"}
        return host.refused("sr_create", "0", device_config=config).code

    host = made(tmp_path / "root", disk.device)
    assert refused("/dev/no-such-device") == 19
    assert refused("/dev/null") == 19
    assert refused(file) == 91
    assert refused(disk.device, disk.device) == 91
    call("dmsetup", "create", "used", "--table", f"0 8 linear {disk.device} 0")
    assert refused(disk.device) == 16
    call("dmsetup", "remove", "used")
    call("pvcreate", "-q", "--yes", disk.device)
    assert refused(disk.device) == 42


def test_a_damaged_file_system_is_not_mounted(loop_disk: Disks, tmp_path: Path) -> None:
    disk = loop_disk(128 * MIB)
    host = made(tmp_path / "root", disk.device)
    host.make()
    host.call("sr_detach")
    group = PREFIX + host.sr_uuid
    call("lvchange", "-ay", f"{group}/{host.sr_uuid}")
    volume = Path("/dev", group, host.sr_uuid)
    # The kernel has noted an error, and the root folder has lost its inode.
    call("debugfs", "-w", "-R", "set_super_value state 2", volume)
    call("debugfs", "-w", "-R", "clri <2>", volume)
    call("lvchange", "-an", f"{group}/{host.sr_uuid}")
    error = host.refused("sr_attach")
    assert (error.code, "e2fsck" in error.detail) == (47, True)
    assert not volume.exists()
    assert mounted_at(host.settings.mounts / host.sr_uuid) is None


def test_a_file_system_in_use_stays_attached(loop_disk: Disks, tmp_path: Path) -> None:
    host = made(tmp_path / "root", loop_disk(128 * MIB).device)
    host.make()
    folder = host.settings.mounts / host.sr_uuid
    with (folder / "somebody's").open("w"):
        assert host.refused("sr_detach").code == 16
        host.call("sr_scan")
    (folder / "somebody's").unlink()
    host.call("sr_detach")
    assert not Path("/dev", PREFIX + host.sr_uuid).exists()


@pytest.mark.parametrize("tool", ["mkfs.ext4", "vgchange"])
def test_create_killed_before_a_tool_may_be_repeated(
    loop_disk: Disks, tmp_path: Path, tool: str
) -> None:
    disk = loop_disk(64 * MIB)
    host = made(tmp_path / "root", disk.device)
    child = os.fork()
    if child == 0:
        with mock.patch.object(process, "run", dying(tool)):
            host.driver.create(host.sr_uuid, host.device_config, 0)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 9
    assert host.driver.probe(host.device_config) == []
    with pytest.raises(SmError, match="not made to its end"):
        host.driver.attach(host.sr_uuid, host.device_config)
    # Another SR must not be put over it.
    other = made(tmp_path / "other", disk.device)
    assert other.refused("sr_create", "0").code in (16, 42)
    host.make()
    assert mounted_at(host.settings.mounts / host.sr_uuid) is not None
    host.call("sr_detach")


def dying(tool: str) -> Callable[..., Any]:
    """A runner of tools that ends the process in place of a certain tool."""
    real = process.run

    def run(argv: Sequence[str], **options: Any) -> Any:
        if tool in argv[:2]:
            os._exit(9)
        return real(argv, **options)

    return run
