"""QCOW2 images on real block devices."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.process import run
from tests.cowutil.contract import subjects as qemu_contract
from tests.cowutil.qcow2.images import MIB, content, qemu_io
from tests.support.lvm.loop import filled

UTIL = Qcow2Util(run)


@pytest.fixture
def volumes(tmp_path: Path) -> Iterator[list[Path]]:
    """Three block devices of 16 MiB full of old data."""
    with filled(tmp_path, [b"\xee" * (16 * MIB)] * 3) as devices:
        yield devices


def test_an_image_on_a_volume(volumes: list[Path]) -> None:
    volume = volumes[0]
    UTIL.create(volume, 8 * MIB)
    assert content(volume) == bytes(8 * MIB)
    qemu_io(volume, "write -P 1 1M 1M")
    UTIL.set_hidden(volume, True)
    UTIL.resize(volume, 12 * MIB)
    info = UTIL.info(volume)
    assert info.hidden
    assert info.virtual_size == 12 * MIB
    assert UTIL.allocated_size(volume) == MIB
    assert UTIL.check(volume).clean
    assert UTIL.used_size(volume) < 4 * MIB
    UTIL.create(volume, 8 * MIB)  # a volume is there to be overwritten
    assert UTIL.allocated_size(volume) == 0


def test_a_merge_on_volumes(volumes: list[Path]) -> None:
    base, middle, top = (ImageRef(volume, "qcow2") for volume in volumes)
    UTIL.create(base.path, 8 * MIB)
    qemu_contract.qemu_io([base], "write -P 1 0 4M")
    UTIL.snapshot(middle.path, base, 8 * MIB)
    qemu_contract.qemu_io([middle, base], "write -P 2 1M 1M")
    UTIL.snapshot(top.path, middle, 8 * MIB)
    qemu_contract.qemu_io([top, middle, base], "write -P 3 1536k 1M")
    expected = qemu_contract.qemu_content([top, middle, base])
    assert UTIL.coalesce([top, middle, base], 1) == MIB
    assert qemu_contract.qemu_content([middle, base]) == expected
    UTIL.set_parent(top.path, base)
    UTIL.coalesce([middle, base], 1)
    assert qemu_contract.qemu_content([base]) == expected
    assert qemu_contract.qemu_content([top, base]) == expected


def test_a_merge_into_a_raw_volume(volumes: list[Path]) -> None:
    base, top = ImageRef(volumes[0], "raw"), ImageRef(volumes[1], "qcow2")
    UTIL.snapshot(top.path, base, 16 * MIB)
    qemu_contract.qemu_io([top, base], "write -P 3 1536k 1M", "write -z 4M 1M")
    expected = qemu_contract.qemu_content([top, base])
    UTIL.coalesce([top, base], 1)
    assert qemu_contract.qemu_content([base]) == expected
