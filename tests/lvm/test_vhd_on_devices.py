"""VHD images on real block devices."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sm.cowutil.errors import ImageBusy
from sm.cowutil.vhd.block_file import Access, open_file
from tests.cowutil.vhd.vhd_support import MIB, content, fill, open_disk, qemu_content, ref, util
from tests.support.lvm.loop import attached_file, filled


@pytest.fixture
def devices(tmp_path: Path) -> Iterator[list[Path]]:
    """Two loop devices of 24 MiB full of old data."""
    with filled(tmp_path, [random.Random(each).randbytes(24 * MIB) for each in range(2)]) as found:
        yield found


def footer_at_the_end(device: Path) -> bytes:
    with device.open("rb") as file:
        file.seek(-512, 2)
        return file.read()


def test_a_chain_of_volumes(devices: list[Path], tmp_path: Path) -> None:
    parent, child = devices
    util().create(parent, 6 * MIB)
    assert footer_at_the_end(parent)[:8] == b"conectix"
    model = bytearray(6 * MIB)
    disk = open_disk([parent])
    fill(disk, model, seed=1, count=6)
    disk.close()
    assert content([parent]) == model == qemu_content(parent, tmp_path / "raw")
    util().snapshot(child, ref(parent), 8 * MIB)
    model.extend(bytes(2 * MIB))
    disk = open_disk([child, parent])
    fill(disk, model, seed=2, count=6)
    disk.close()
    for device in devices:
        assert util().check(device).clean
    util().set_hidden(parent, True)
    assert footer_at_the_end(parent)[85] == 1
    util().coalesce([ref(child), ref(parent)], 1)
    assert content([parent]) == model
    assert util().check(parent).clean
    util().resize(parent, 10 * MIB)
    assert content([parent]) == model.ljust(10 * MIB, b"\0")


def test_a_volume_in_use_is_not_overwritten(devices: list[Path]) -> None:
    device = devices[0]
    util().create(device, 4 * MIB)
    before = device.read_bytes()
    with closing(open_file(device, Access.WRITE)):
        for attempt in (util().create, util().resize):
            with pytest.raises(ImageBusy):
                attempt(device, 6 * MIB)
    assert device.read_bytes() == before
    util().resize(device, 6 * MIB)
    assert util().info(device).virtual_size == 6 * MIB


def test_a_volume_that_was_enlarged_or_cut(devices: list[Path]) -> None:
    """The footer at the end is lost then; the copy counts, and repair writes it anew."""
    device = devices[0]
    util().create(device, 4 * MIB)
    model = bytearray(4 * MIB)
    disk = open_disk([device])
    fill(disk, model, seed=3, count=3)
    disk.close()
    with device.open("r+b") as file:
        file.seek(-512, 2)
        file.write(os.urandom(512))
    assert content([device]) == model
    report = util().check(device)
    assert report.leaks == ("footer at the end is missing",)
    assert not report.corruptions
    assert util().repair(device).clean
    assert footer_at_the_end(device)[:8] == b"conectix"


def test_a_volume_too_small_for_the_tables(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.write_bytes(random.Random(1).randbytes(MIB))
    before = small.read_bytes()
    with attached_file(small) as disk:
        with pytest.raises(OSError, match="No space left"):
            util().create(disk.device, 1000 << 30)
        assert disk.device.read_bytes() == before
