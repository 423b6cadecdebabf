"""Raw images on a real block device."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.cowutil.errors import SizeOutOfRange
from sm.cowutil.extents import Extents
from sm.cowutil.raw import RawFormat
from sm.process import run
from tests.support.lvm.loop import filled

MIB = 1 << 20


@pytest.fixture
def raw() -> RawFormat:
    return RawFormat(run)


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Path]:
    """A block device of 4 MiB full of old data."""
    with filled(tmp_path, [b"\xee" * (4 * MIB)]) as (device,):
        yield device


def test_a_volume_is_zeroed(raw: RawFormat, volume: Path) -> None:
    assert raw.info(volume).virtual_size == 4 * MIB
    assert raw.allocated_extents(volume) == Extents.of([(0, 4 * MIB)])
    raw.create(volume, 4 * MIB)
    assert volume.read_bytes() == bytes(4 * MIB)
    assert raw.check(volume).clean


def test_a_volume_grows_only_with_its_device(raw: RawFormat, volume: Path) -> None:
    raw.resize(volume, 4 * MIB)
    for call in (raw.create, raw.resize):
        with pytest.raises(SizeOutOfRange):
            call(volume, 8 * MIB)
    assert volume.read_bytes() == b"\xee" * (4 * MIB)
