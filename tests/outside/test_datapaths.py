"""The processes that serve disks to guests, on a disk that fills or fails under them."""

from __future__ import annotations

import errno

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support import guest
from tests.support.outside.disk import FailingDisk
from tests.support.outside.programs import program
from tests.support.site import MIB, Site

SIZE = 8 * MIB


def requests(uri: str, *commands: str) -> tuple[bool, str]:
    """A guest's requests: whether all succeed, a last flush included, and what it is told."""
    parts = [part for each in commands for part in ("-c", each)]
    ended = program({}, "qemu-io", "-t", "writeback", "-f", "raw", *parts, uri)
    return ended.returncode == 0, ended.stdout


@pytest.fixture
def served(site: Site, cow_format: str, disk: FailingDisk) -> tuple[str, str, str]:
    """An SR, a VDI in use whose first MiB is durable, and its URI."""
    sr = site.create_sr()
    vdi = site.create_vdi(sr, cow_format, SIZE)
    site.surroundings = disk.environment
    uri = site.activate(vdi)
    qemu_io(uri, "write -P 1 0 1M", "flush")
    return sr, vdi, uri


def test_a_guest_on_a_disk_that_fills(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    """It is told; what it has already can be written, and all can be read."""
    _, _, uri = served
    disk.fill_after(512 << 10)
    done, told = requests(uri, "write -P 2 4M 2M")
    assert not done
    assert "No space left on device" in told
    assert disk.refused
    _, told = requests(uri, "write -P 3 0 64k", "read -P 1 512k 512k", "read -P 3 0 64k")
    assert "failed" not in told.lower()
    assert content(uri, SIZE)[:MIB] == b"\3" * (64 << 10) + b"\1" * (MIB - (64 << 10))


def test_a_sync_that_fails_is_told(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    _, _, uri = served
    fault = disk.fail("fsync", errno.EIO, times=1, names="store/*")
    done, _ = requests(uri, "write -P 2 4M 64k", "flush")
    assert not done
    assert fault.met == 1
    assert content(uri, SIZE)[:MIB] == b"\1" * MIB


@pytest.mark.parametrize("cow_format", ["qcow2"])
def test_a_guest_goes_on_when_there_is_space_again(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    sr, vdi, uri = served
    disk.fill_after(0)
    done, _ = requests(uri, "write -P 2 4M 1M")
    assert not done
    disk.heal()
    qemu_io(uri, "write -P 3 4M 1M", "flush")
    site.deactivate(vdi)
    data = b"\1" * MIB + bytes(3 * MIB) + b"\3" * MIB + bytes(3 * MIB)
    assert guest.content(site.chain(sr, vdi)) == data
