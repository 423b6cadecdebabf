"""Raw images on files with holes, and the opening of what is no image."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sm.cowutil.errors import ImageNotRecognised, SizeOutOfRange
from sm.cowutil.extents import Extents
from sm.cowutil.raw import RawFormat
from sm.process import run

MIB = 1 << 20


@pytest.fixture
def raw() -> RawFormat:
    return RawFormat(run)


def test_a_new_image_takes_no_space(raw: RawFormat, tmp_path: Path) -> None:
    raw.create(tmp_path / "a", 1 << 40)
    assert (tmp_path / "a").stat().st_size == 1 << 40
    assert (tmp_path / "a").stat().st_blocks == 0


def test_holes_are_not_allocated(raw: RawFormat, tmp_path: Path) -> None:
    path = tmp_path / "a"
    raw.create(path, 64 * MIB)
    with path.open("r+b") as file:
        for offset in (4 * MIB, 16 * MIB):
            file.seek(offset)
            file.write(b"x" * MIB)
    parts = Extents.of([(4 * MIB, 5 * MIB), (16 * MIB, 17 * MIB)])
    assert raw.allocated_extents(path) == parts
    assert raw.allocated_size(path) == 2 * MIB


def test_data_up_to_the_end(raw: RawFormat, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * MIB)
    assert raw.allocated_extents(path) == Extents.of([(0, MIB)])


def test_a_size_that_is_no_multiple_of_a_sector_is_reported(raw: RawFormat, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"x" * 1000)
    before = path.stat().st_mtime_ns
    report = raw.repair(path)
    assert not report.clean
    assert "1000" in report.corruptions[0]
    assert path.stat().st_mtime_ns == before
    with pytest.raises(SizeOutOfRange):
        raw.resize(path, 1001)


def test_what_is_no_file_is_refused(raw: RawFormat, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageNotRecognised):
        raw.info(tmp_path / "pipe")
    with pytest.raises(ImageNotRecognised):
        raw.info(Path("/dev/null"))
