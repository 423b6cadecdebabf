"""The processes that serve disks to guests, on a disk that fills or fails under them."""

from __future__ import annotations

import errno
import json
import os
import signal
import struct
from pathlib import Path

import pytest

from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.owner import start_time
from tests.datapath.clients import content, qemu_io
from tests.support import guest
from tests.support.outside.disk import FailingDisk
from tests.support.outside.programs import program
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

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


def test_a_guest_goes_on_when_there_is_space_again(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    """Whether it ran out at the data, or at what makes them count; more than once."""
    sr, vdi, uri = served
    for number, budget in enumerate((0, 8 << 10, 600 << 10, MIB + (8 << 10))):
        disk.fill_after(budget)
        done, _ = requests(uri, f"write -P 2 {(2 + number) * MIB} 2M", "flush")
        assert not done
        disk.heal()
        qemu_io(uri, f"write -P 3 {(2 + number) * MIB} 1M", "flush")
    site.deactivate(vdi)
    data = guest.content(site.chain(sr, vdi))
    assert data[: 2 * MIB] == b"\1" * MIB + bytes(MIB)
    assert data[2 * MIB : 6 * MIB] == b"\3" * (4 * MIB)
    assert data[7 * MIB :] == bytes(MIB)
    assert guest.check_clean(site.chain(sr, vdi)) == []


def test_what_was_durable_after_a_full_disk_survives_a_kill(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    sr, vdi, uri = served
    disk.fill_after(300 << 10)
    done, _ = requests(uri, "write -P 2 4M 1M", "flush")
    assert not done
    disk.heal()
    qemu_io(uri, "write -P 3 4M 1M", "flush")
    kill(site, sr, vdi)
    site.deactivate(vdi)
    data = guest.content(site.chain(sr, vdi))
    assert data == b"\1" * MIB + bytes(3 * MIB) + b"\3" * MIB + bytes(3 * MIB)


def deactivation(site: Site, vdi: str) -> str:
    """What a deactivation that fails says; empty where it succeeds."""
    code, text = site.run("--json", "vdi", "deactivate", vdi)
    assert code in (0, 1)
    return str(json.loads(text)["error"]["message"]) if code else ""


def kill(site: Site, sr: str, vdi: str) -> None:
    """The process of a disk is gone from one moment to the next."""
    found = Datapaths(site.repository(sr).settings).find(Disk(sr, vdi))
    assert found is not None
    pid = found[1].endpoint.pid
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_time(pid) is None, "the end of the process")


def lose(disk: FailingDisk, uri: str) -> None:
    """One sync fails under a guest that has written; from then on all is well with the disk."""
    fault = disk.fail("fsync", errno.EIO, times=1, names="store/*")
    done, _ = requests(uri, "write -P 2 4M 64k", "flush")
    assert not done
    assert fault.met == 1
    disk.heal()


def test_nothing_is_acknowledged_after_a_failed_sync(
    site: Site, served: tuple[str, str, str], disk: FailingDisk, cow_format: str
) -> None:
    """The kernel may have dropped the data, and says nothing of it again."""
    _, _, uri = served
    lose(disk, uri)
    for _ in range(2):
        done, _ = requests(uri, "flush")
        assert not done
    if cow_format == "vhd":
        done, _ = requests(uri, "write -P 3 0 64k")
        assert not done
    assert content(uri, SIZE)[:MIB] == b"\1" * MIB


def test_a_loss_is_told_until_the_disk_is_activated_again(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    sr, vdi, uri = served
    lose(disk, uri)
    for _ in range(3):
        assert "may be lost" in deactivation(site, vdi)
    uri = site.activate(vdi)
    assert content(uri, SIZE)[:MIB] == b"\1" * MIB
    qemu_io(uri, "write -P 5 2M 1M", "flush")
    assert deactivation(site, vdi) == ""
    data = guest.content(site.chain(sr, vdi))
    assert data[: 3 * MIB] == b"\1" * MIB + bytes(MIB) + b"\5" * MIB


def test_a_loss_is_told_until_the_disk_is_reset(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    _, vdi, uri = served
    lose(disk, uri)
    for _ in range(2):
        assert "may be lost" in deactivation(site, vdi)
    (host,) = site.sm("host", "list")
    site.sm("vdi", "reset", vdi, "--host", host["uuid"])
    assert deactivation(site, vdi) == ""


@pytest.mark.parametrize("cow_format", ["vhd"])
def test_a_loss_is_told_though_its_process_was_killed(
    site: Site, served: tuple[str, str, str], disk: FailingDisk
) -> None:
    sr, vdi, uri = served
    lose(disk, uri)
    kill(site, sr, vdi)
    for _ in range(2):
        assert "may be lost" in deactivation(site, vdi)


def test_a_disk_that_lost_something_is_checked_before_it_is_served(
    site: Site, served: tuple[str, str, str], disk: FailingDisk, cow_format: str
) -> None:
    """Here its tables are among what did not come to the disk."""
    sr, vdi, uri = served
    lose(disk, uri)
    assert "may be lost" in deactivation(site, vdi)
    image = site.chain(sr, vdi)[0].path
    good = image.read_bytes()
    spoil(image, cow_format)
    with pytest.raises(Refused) as refused:
        site.activate(vdi)
    assert "damaged" in str(refused.value)
    image.write_bytes(good)
    assert content(site.activate(vdi), SIZE)[:MIB] == b"\1" * MIB


def spoil(image: Path, image_format: str) -> None:
    """Damage that keeps nobody from opening an image: to a hint, or to a count of references."""
    with image.open("r+b") as file:
        data = file.read()
        if image_format == "vhd":
            (place,) = struct.unpack_from(">Q", data, data.index(b"tdbatmap") + 8)
        else:
            (table,) = struct.unpack_from(">Q", data, 48)
            (place,) = struct.unpack_from(">Q", data, table)
        file.seek(place)
        file.write(bytes([data[place] ^ 0xFF]) if image_format == "vhd" else bytes(2))
