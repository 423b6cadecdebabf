"""Metadata that lies in holes of its file: read as the zeroes that it is, and at no cost."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.qcow2.check import check_image
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.pieces import twin
from sm.cowutil.qcow2.usage import read_usage
from tests.cowutil.qcow2.images import MIB, qemu, qemu_check
from tests.cowutil.qcow2.synthetic import synthesize
from tests.hostile.case import write_sparse
from tests.hostile.qcow2_parts import COPIED, DATA, L2, SOUND_PARTS, SPARE, Parts

TABLES = 1 << 14
HOLES = 1 << 30
"""From here on the file is one hole, with room for the tables."""

LENGTH = HOLES + TABLES * 4096


def sparse(path: Path, *, shuffled: bool) -> Path:
    """A disk of 32 GiB whose first L2 table is real and whose 16,383 others are holes."""
    tables = np.arange(TABLES, dtype=np.uint64) * np.uint64(4096) + np.uint64(HOLES)
    if shuffled:
        np.random.default_rng(1).shuffle(tables)
    tables[0] = L2
    entries = (tables | np.uint64(COPIED)).astype(">u8").tobytes()
    fields = {"size": TABLES * 2 * MIB, "l1_entries": TABLES, "l1_offset": SPARE}
    write_sparse(path, LENGTH, SOUND_PARTS.but(fields=fields, pieces={SPARE: entries}).layout())
    return path


def bytes_read(work: Callable[[], object]) -> int:
    """How many bytes this process read from files while it did something."""

    def read() -> int:
        return int(Path("/proc/self/io").read_text().split()[1])

    before = read()
    work()
    return read() - before


def require_holes(path: Path) -> None:
    """What is measured is only there where the file system keeps holes; images need such a one."""
    assert path.stat().st_blocks * 512 <= 16 * MIB, f"{path.parent} keeps no holes"


@pytest.mark.parametrize("shuffled", [False, True])
def test_tables_that_are_holes_are_not_read(shuffled: bool, tmp_path: Path) -> None:
    path = sparse(tmp_path / "sparse.qcow2", shuffled=shuffled)
    require_holes(path)
    told = json.loads(qemu("qemu-img", "map", "-f", "qcow2", "--output=json", path))
    held = sum(entry["length"] for entry in told if entry["present"])

    def look() -> None:
        with Qcow2Layer(path) as layer:
            assert layer.held_size() == layer.held().total == held
            assert len(layer.map().start) == 3
            buffer = memoryview(bytearray(4096))
            layer.read_into(0, buffer)
            assert bytes(buffer) == b"\x11" * 4096
            with pytest.raises(ValueError, match="is not in this image"):
                layer.read_into(4 * MIB, buffer)

    assert bytes_read(look) < 4 * MIB
    assert bytes_read(lambda: check_image(path)) < 4 * MIB


@pytest.mark.parametrize("shuffled", [False, True])
def test_the_verdict_on_such_an_image_is_that_of_qemu(shuffled: bool, tmp_path: Path) -> None:
    """The tables are in use, whatever is in them, and no refcount says so."""
    path = sparse(tmp_path / "sparse.qcow2", shuffled=shuffled)
    found = check_image(path)
    told = qemu_check(path)
    assert told is not None
    assert told[0] > 0
    assert found.counts.count > 0
    assert found.tables.count == 0
    assert found.leaks.count == told[1]


def test_dug_tables_of_a_sound_image(tmp_path: Path) -> None:
    """What `fallocate --dig-holes` makes of tables that a guest has discarded again."""
    path = tmp_path / "dug.qcow2"
    synthesize(path, 1 << 40, np.arange(0, 1 << 24, 8192, dtype=np.int64))
    with path.open("rb") as file:
        header = struct.unpack(">4sIQIIQIIQ", file.read(48))
        file.seek(header[8])
        raw = file.read(header[7] * 8)
    tables = (np.frombuffer(raw, dtype=">u8") & np.uint64((1 << 56) - 512)).astype(np.int64)
    with path.open("r+b") as file:
        for offset in tables[1:].tolist():
            file.seek(offset)
            file.write(bytes(1 << 16))
    qemu("fallocate", "--dig-holes", path)
    with Qcow2Layer(path) as layer:
        assert layer.held_size() == layer.held().total == 1 << 16
    told = qemu("qemu-img", "map", "-f", "qcow2", "--output=json", path)
    assert sum(entry["length"] for entry in json.loads(told) if entry["present"]) == 1 << 16
    # All data clusters but the first have leaked.
    found = check_image(path)
    assert qemu_check(path) == (0, len(tables) - 1)
    assert found.leaks.count == len(tables) - 1
    assert not found.tables.count + found.counts.count


def test_refcount_blocks_that_are_holes_are_not_read(tmp_path: Path) -> None:
    """A table of 8 MiB names blocks of 4 GiB; all but the first are holes."""
    path = tmp_path / "refcounts.qcow2"
    blocks = np.arange(1 << 20, dtype=np.uint64) * np.uint64(4096) + np.uint64(HOLES)
    blocks[0] = 2 * 4096
    fields = {"refcount_offset": SPARE, "refcount_clusters": 2048}
    pieces = {SPARE: blocks.astype(">u8").tobytes()}
    write_sparse(path, 1 << 40, Parts(fields=fields, pieces=pieces).layout())
    require_holes(path)
    used = []
    assert bytes_read(lambda: used.append(read_usage(path))) < 16 * MIB
    assert used[0].physical == SOUND_PARTS.length


def test_refcount_blocks_that_are_named_twice_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "twice.qcow2"
    fields = {"refcount_offset": SPARE}
    pieces = {SPARE: struct.pack(">QQQ", 2 * 4096, 0, 2 * 4096)}
    write_sparse(path, MIB, Parts(fields=fields, pieces=pieces).layout())
    with pytest.raises(ImageCorrupt, match="block of another entry") as refused:
        read_usage(path)
    assert refused.value.offset == SPARE + 16


@pytest.mark.parametrize("spread", [1, 3, 100, 1 << 34])
@pytest.mark.parametrize("count", [0, 1, 2, 1000, 70_000])
def test_twins(count: int, spread: int) -> None:
    dice = np.random.default_rng(count)
    places = np.arange(1, count + 1, dtype=np.int64) * spread * 512
    dice.shuffle(places)
    offsets = np.insert(places, np.sort(dice.integers(0, count + 1, 50)), 0)
    assert twin(offsets, 512) is None
    used = np.flatnonzero(offsets)
    for _ in range(20 if count > 1 else 0):
        first, second = np.sort(dice.choice(used, 2, replace=False))
        bad = offsets.copy()
        bad[second] = bad[first]
        assert twin(bad, 512) == second
    if count > 2:
        assert twin(np.full(70_000, 512, dtype=np.int64), 512) == 1


def test_a_twin_is_refused_however_far_apart(tmp_path: Path) -> None:
    path = tmp_path / "twin.qcow2"
    fields = {"size": 6 * MIB, "l1_entries": 3}
    entries = struct.pack(">QQQ", L2 | COPIED, DATA | COPIED, L2 | COPIED)
    write_sparse(path, MIB, Parts(fields=fields, pieces={3 * 4096: entries}).layout())
    with pytest.raises(ImageCorrupt, match="L2 table of another entry") as refused:
        Qcow2Layer(path)
    assert (refused.value.field, refused.value.offset) == ("L1 entry", 3 * 4096 + 16)
    assert path.stat().st_size == MIB
