"""Check and repair against `qemu-img check`."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from sm.cowutil.errors import ImageError
from sm.cowutil.qcow2 import layout
from sm.cowutil.qcow2.check import check_image
from sm.cowutil.qcow2.repair import repair_image
from sm.process import run
from tests.cowutil.qcow2.images import BY_NAME, VARIANTS, Variant, content, qemu, qemu_check
from tests.cowutil.qcow2.mutations import mutate

ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def patch(path: Path, offset: int, data: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(data)


def word(path: Path, offset: int) -> int:
    return int.from_bytes(path.read_bytes()[offset : offset + 8], "big")


def first_entries(path: Path) -> tuple[int, int, int]:
    """File offsets of the first used L1 entry, its L2 table's first used entry, a refcount."""
    l1 = word(path, layout.L1_OFFSET_FIELD)
    table = word(path, l1) & layout.OFFSET_MASK
    while word(path, table) == 0:
        table += 8
    block = word(path, word(path, layout.REFCOUNT_OFFSET_FIELD))
    return l1, table, block


@ALL
def test_whole_images_are_clean(variant: Variant, tmp_path: Path) -> None:
    path = variant.make(tmp_path)
    assert qemu_check(path) == (0, 0)
    findings = check_image(path)
    assert findings.report().clean, findings.report()
    size = path.stat().st_size
    assert findings.used_end <= -(-size // 512) * 512 + (2 << 20)


def test_bitmaps_are_counted(tmp_path: Path) -> None:
    path = BY_NAME["clusters_4k"].make(tmp_path)
    qemu("qemu-img", "bitmap", "--add", "-g", "512", path, "one")
    qemu("qemu-img", "bitmap", "--add", path, "two")
    assert qemu_check(path) == (0, 0)
    assert check_image(path).report().clean


@pytest.mark.parametrize(
    "name",
    ["plain", "version2", "extended", "snapshots", "refcount_4", "refcount_64", "deflate_4k"],
)
def test_the_verdict_on_damaged_images_is_that_of_qemu(name: str, tmp_path: Path) -> None:
    original = BY_NAME[name].make(tmp_path).read_bytes()
    generator = random.Random(name)
    path = tmp_path / "damaged"
    damaged = 0
    for _ in range(40):
        path.write_bytes(mutate(original, generator, header=False))
        expected = qemu_check(path)
        try:
            findings = check_image(path)
        except ImageError:
            assert expected is None
            continue
        bad = findings.tables.count + findings.counts.count
        if expected is None:  # qemu gave up where we found something
            assert bad
            continue
        assert bool(bad) == bool(expected[0]), findings.report()
        assert bad or bool(findings.leaks.count) == bool(expected[1])
        damaged += bool(bad)
    assert damaged > 5


def test_a_leak_is_found_and_freed(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    expected = content(path)
    size = path.stat().st_size
    with path.open("ab") as file:
        file.truncate(-(-size // 65536) * 65536 + 3 * 65536)
    _, _, block = first_entries(path)
    last = -(-size // 65536) + 1
    patch(path, block + 2 * last, b"\x00\x01")
    assert qemu_check(path) == (0, 1)
    report = check_image(path).report()
    assert report.corruptions == ()
    assert len(report.leaks) == 1
    assert str(last) in report.leaks[0]
    assert repair_image(run, path).clean
    assert qemu_check(path) == (0, 0)
    assert content(path) == expected


def test_a_refcount_too_low_is_mended_without_touching_data(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    expected = content(path)
    _, _, block = first_entries(path)
    patch(path, block + 2 * 5, b"\x00\x00")
    assert check_image(path).counts.count
    assert repair_image(run, path).clean
    assert qemu_check(path) == (0, 0)
    assert content(path) == expected


@pytest.mark.parametrize("value", [0x80000000DEAD0000, 0x8000000000050200, 0x8100000000050000])
def test_a_broken_entry_is_reported_and_left_alone(tmp_path: Path, value: int) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    _, table, _ = first_entries(path)
    patch(path, table, value.to_bytes(8, "big"))
    before = path.read_bytes()
    report = repair_image(run, path)
    assert f"byte {table}" in report.corruptions[0]
    assert f"{value:#018x}" in report.corruptions[0]
    assert path.read_bytes() == before


@pytest.mark.parametrize("bit", [1, 2])
def test_a_mark_on_a_sound_image_is_cleared(tmp_path: Path, bit: int) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    expected = content(path)
    patch(path, layout.INCOMPATIBLE_FIELD + 7, bytes([bit]))
    assert repair_image(run, path).clean
    assert path.read_bytes()[layout.INCOMPATIBLE_FIELD + 7] == 0
    assert content(path) == expected


def test_many_uses_of_one_cluster(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    for number in range(150):  # more than seven bits can count
        qemu("qemu-img", "snapshot", "-c", str(number), path)
    assert qemu_check(path) == (0, 0)
    assert check_image(path).report().clean
