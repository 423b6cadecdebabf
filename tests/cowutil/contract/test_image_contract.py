"""What every image format must do."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from sm.cowutil.errors import ImageError, SizeOutOfRange
from sm.cowutil.extents import Extents
from sm.cowutil.stream import Zeroes
from tests.cowutil.contract.subjects import Subject, make

SIZE = 8 << 20
MIB = 1 << 20


@pytest.fixture(params=["raw", "qcow2", "vhd", "toy"])
def subject(request: pytest.FixtureRequest) -> Subject:
    return make(request.param)


def test_a_new_image_is_an_empty_visible_disk(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    info = subject.images.info(image.path)
    assert info.path == image.path
    assert info.format == subject.images.name
    assert info.virtual_size == SIZE
    assert info.block_size >= 512
    assert not info.hidden
    assert info.parent is None
    assert info.marks == ()
    assert subject.images.allocated_size(image.path) == 0
    assert len(subject.images.allocated_extents(image.path)) == 0
    assert subject.content([image]) == bytes(SIZE)
    assert subject.images.check(image.path).clean


def test_sizes_out_of_range_leave_no_image(subject: Subject, tmp_path: Path) -> None:
    limits, image = subject.images.limits, subject.ref(tmp_path, "a")
    assert limits.minimum % limits.granularity == 0
    assert limits.maximum % limits.granularity == 0
    for size in (0, limits.minimum - limits.granularity, limits.maximum + limits.granularity):
        with pytest.raises(SizeOutOfRange):
            subject.images.create(image.path, size)
    with pytest.raises(FileNotFoundError):
        subject.images.info(image.path)
    assert list(tmp_path.iterdir()) == []


def test_an_image_that_exists_is_not_overwritten(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.write([image], 0, 4096, 7)
    before = subject.fingerprint(image)
    with pytest.raises(FileExistsError):
        subject.images.create(image.path, SIZE)
    assert subject.fingerprint(image) == before


def test_the_map_covers_what_was_written(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    written = [(512, 1024), (MIB + 512, 70000 // 512 * 512), (SIZE - 512, 512)]
    expected = bytearray(SIZE)
    for number, (offset, length) in enumerate(written, start=1):
        subject.write([image], offset, length, number)
        expected[offset : offset + length] = bytes([number]) * length
    assert subject.content([image]) == expected
    held = subject.images.allocated_extents(image.path)
    assert held.covers(type(held).of((start, start + length) for start, length in written))
    assert int(held.ends[-1]) <= SIZE
    assert held.total < SIZE
    assert subject.images.allocated_size(image.path) >= held.total
    with subject.images.open_layer(image.path) as layer:
        assert layer.virtual_size == SIZE
        assert layer.map().extents() == held
        for start, end in held:
            buffer = bytearray(end - start)
            layer.read_into(start, memoryview(buffer))
            assert buffer == expected[start:end]
    assert subject.images.check(image.path).clean


def test_a_grown_disk_reads_zero_in_its_new_part(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.write([image], SIZE - 4096, 4096, 9)
    subject.images.resize(image.path, 3 * SIZE)
    assert subject.images.info(image.path).virtual_size == 3 * SIZE
    assert subject.content([image]) == bytes(SIZE - 4096) + b"\x09" * 4096 + bytes(2 * SIZE)
    assert subject.images.check(image.path).clean
    subject.write([image], 3 * SIZE - 512, 512, 3)
    assert subject.content([image])[-512:] == b"\x03" * 512


def test_a_disk_does_not_shrink(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    before = subject.fingerprint(image)
    with pytest.raises(SizeOutOfRange):
        subject.images.resize(image.path, SIZE // 2)
    assert subject.fingerprint(image) == before


def test_a_resize_to_the_same_size_is_allowed(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.images.resize(image.path, SIZE)
    assert subject.images.info(image.path).virtual_size == SIZE


def test_reading_changes_nothing(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.write([image], MIB, MIB, 5)
    subject.freeze(image)
    before = subject.fingerprint(image)
    subject.images.info(image.path)
    subject.images.allocated_extents(image.path)
    subject.images.allocated_size(image.path)
    subject.images.check(image.path)
    with subject.images.open_layer(image.path) as layer:
        layer.map()
        layer.read_into(MIB, memoryview(bytearray(MIB)))
    assert subject.fingerprint(image) == before


def test_a_full_image_fits_its_announced_size(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.write([image], 0, SIZE, 1)
    limit = subject.images.full_size(SIZE)
    assert limit >= SIZE
    if image.path.exists():
        assert image.path.stat().st_size <= limit


def test_repair_of_a_clean_image_changes_no_content(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.write([image], MIB, MIB, 5)
    before = subject.fingerprint(image)
    assert subject.images.repair(image.path).clean
    assert subject.fingerprint(image) == before


def test_a_missing_image_is_the_systems_error(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "missing")
    for call in (subject.images.info, subject.images.check, subject.images.open_layer):
        with pytest.raises(FileNotFoundError):
            call(image.path)


def streamed(subject: Subject, disk: bytes, data: Extents) -> bytes:
    """An image made in one pass, reading nothing twice, backwards or beyond the end."""
    position = 0

    def read(offset: int, buffer: memoryview) -> None:
        nonlocal position
        assert position <= offset
        position = offset + len(buffer)
        assert position <= len(disk)
        buffer[:] = disk[offset:position]

    pieces = subject.images.stream(len(disk), data, read)
    image = b"".join(
        bytes(piece.length) if isinstance(piece, Zeroes) else bytes(piece) for piece in pieces
    )
    assert len(image) == subject.images.measure(len(disk), data).required
    return image


@pytest.mark.parametrize("ranges", [[], [(0, 1)], [(512, 70000), (MIB, 3 * MIB), (SIZE - 1, SIZE)]])
def test_a_stream_is_an_image_of_the_measured_length(
    subject: Subject, tmp_path: Path, ranges: list[tuple[int, int]]
) -> None:
    disk = bytearray(SIZE)
    for start, end in ranges:
        disk[start:end] = random.Random(end).randbytes(end - start)
    image = subject.ref(tmp_path, "a")
    subject.store(image, streamed(subject, bytes(disk), Extents.of(ranges)))
    info = subject.images.info(image.path)
    assert (info.virtual_size, info.hidden, info.parent, info.marks) == (SIZE, False, None, ())
    assert subject.content([image]) == disk
    assert subject.images.check(image.path).clean
    subject.write([image], 5 * MIB, MIB, 0x66)
    disk[5 * MIB : 6 * MIB] = b"\x66" * MIB
    subject.images.resize(image.path, 2 * SIZE)
    assert subject.content([image]) == bytes(disk) + bytes(SIZE)
    assert subject.images.check(image.path).clean


def test_a_full_stream_has_the_length_of_a_full_image(subject: Subject) -> None:
    full = Extents.of([(0, SIZE)])
    empty = subject.images.measure(SIZE, Extents.of([]))
    measured = subject.images.measure(SIZE, full)
    assert measured.required == measured.fully_allocated == empty.fully_allocated
    assert empty.required <= measured.required
    assert len(streamed(subject, b"\x05" * SIZE, full)) == measured.fully_allocated


@pytest.mark.parametrize("excess", [False, True])
def test_a_stream_of_an_impossible_size_is_refused(subject: Subject, excess: bool) -> None:
    size = subject.images.limits.maximum + 512 if excess else 1000
    nothing = Extents.of([])
    with pytest.raises(ValueError, match=str(size)):
        subject.images.measure(size, nothing)
    with pytest.raises(ValueError, match=str(size)):
        subject.images.stream(size, nothing, lambda offset, buffer: None)


def test_details_are_plain_values(subject: Subject, tmp_path: Path) -> None:
    image = subject.ref(tmp_path, "a")
    subject.images.create(image.path, SIZE)
    subject.freeze(image)
    before = subject.fingerprint(image)
    details = dict(subject.images.details(image.path))
    assert json.loads(json.dumps(details)) == details
    assert subject.fingerprint(image) == before


@pytest.mark.parametrize("name", ["qcow2", "vhd"])
@pytest.mark.parametrize("content", [b"", b"x", b"garbage" * 1000, bytes(1 << 16)])
def test_a_foreign_file_is_refused(name: str, content: bytes, tmp_path: Path) -> None:
    subject = make(name)
    path = tmp_path / "foreign"
    path.write_bytes(content)
    for call in (subject.images.info, subject.images.open_layer, subject.images.allocated_size):
        with pytest.raises(ImageError):
            call(path)
    assert path.read_bytes() == content
