"""Space, end, order, snapshots and bitmaps of an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.extents import Extents
from sm.cowutil.qcow2.check import check_image
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.usage import fragmentation, read_usage
from tests.cowutil.qcow2.images import BY_NAME, MIB, alone, qemu, qemu_check, qemu_info
from tests.cowutil.qcow2.synthetic import synthesize

pytestmark = pytest.mark.one_in(2)


def test_snapshots_are_listed_as_by_qemu(tmp_path: Path) -> None:
    path = BY_NAME["snapshots"].make(tmp_path)
    told = qemu_info(path)["snapshots"]
    found = read_usage(path).snapshots
    assert [(s.identifier, s.name, s.seconds, s.vm_state_size) for s in found] == [
        (s["id"], s["name"], s["date-sec"], s["vm-state-size"]) for s in told
    ]
    assert all(s.virtual_size == 4 * MIB for s in found)


def test_bitmaps_are_listed_as_by_qemu(tmp_path: Path) -> None:
    path = BY_NAME["plain"].make(tmp_path)
    qemu("qemu-img", "bitmap", "--add", "-g", "4096", path, "one")
    qemu("qemu-img", "bitmap", "--add", "--disable", path, "two")
    told = qemu_info(path)["format-specific"]["data"]["bitmaps"]
    found = read_usage(path).bitmaps
    assert [(b.name, b.granularity, b.recording, b.in_use) for b in found] == [
        (b["name"], b["granularity"], "auto" in b["flags"], "in-use" in b["flags"]) for b in told
    ]


@pytest.mark.parametrize("name", ["plain", "refcount_1", "refcount_4", "refcount_64", "deflate"])
def test_the_end_is_that_of_qemu(name: str, tmp_path: Path) -> None:
    path = BY_NAME[name].make(tmp_path)
    told = json.loads(qemu("qemu-img", "check", "--output=json", alone(path)))
    usage = read_usage(path)
    assert usage.used_size == told["image-end-offset"]
    assert usage.used_size == check_image(path).used_end
    assert 0 < usage.physical <= usage.used_size


def test_order(tmp_path: Path) -> None:
    clusters = np.arange(0, 4000, 2, dtype=np.int64)
    synthesize(tmp_path / "ordered", 1 << 30, clusters)
    synthesize(tmp_path / "shuffled", 1 << 30, clusters, shuffle=1)
    synthesize(tmp_path / "single", 1 << 30, clusters[:1])
    assert fragmentation(tmp_path / "ordered") == 0
    assert fragmentation(tmp_path / "shuffled") > 0.9
    assert fragmentation(tmp_path / "single") == 0


@pytest.mark.parametrize("shuffle", [None, 7])
@pytest.mark.parametrize("bits", [12, 16])
def test_synthetic_images_are_right_for_qemu_and_for_us(
    bits: int, shuffle: int | None, tmp_path: Path
) -> None:
    path = tmp_path / "image"
    clusters = np.flatnonzero(np.random.default_rng(3).random(40_000) < 0.5).astype(np.int64)
    synthesize(path, 40_000 << bits, clusters, cluster_bits=bits, shuffle=shuffle)
    assert qemu_check(path) == (0, 0)
    assert check_image(path).report().clean
    with Qcow2Layer(path) as layer:
        assert layer.held_size() == len(clusters) << bits
        held = layer.map().extents()
    assert np.array_equal(np.flatnonzero(held.to_bitmap(1 << bits, 40_000 << bits)), clusters)


@pytest.mark.parametrize("shuffle", [None, 7])
def test_gaps_between_tables_and_full_tables(shuffle: int | None, tmp_path: Path) -> None:
    """Thousands of tables of 64 entries: some missing, most full, some full but for one entry."""
    path = tmp_path / "image"
    dice = np.random.default_rng(11)
    tables = dice.random((4000, 64)) < 2
    tables[dice.random(4000) < 0.02] = False
    tables[dice.random(4000) < 0.02, 17] = False
    present = tables.ravel()[:-7]
    synthesize(path, len(present) << 9, np.flatnonzero(present), cluster_bits=9, shuffle=shuffle)
    told = json.loads(qemu("qemu-img", "map", "--output=json", alone(path)))
    expected = Extents.of((e["start"], e["start"] + e["length"]) for e in told if e["present"])
    with Qcow2Layer(path) as layer:
        assert layer.held() == expected
        assert layer.held_size() == expected.total
        assert layer.bitmap().tobytes() == np.packbits(present).tobytes()
    assert check_image(path).report().clean
    assert qemu_check(path) == (0, 0)
