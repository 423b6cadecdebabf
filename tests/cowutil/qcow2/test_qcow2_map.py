"""Maps and data of every variant of the format, against qemu-img map and qemu-img convert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.extents import ExtentMap, Extents, Kind
from sm.cowutil.qcow2.layer import Qcow2Layer
from tests.cowutil.qcow2.images import (
    MIB,
    VARIANTS,
    Variant,
    alone,
    content,
    qemu,
    qemu_info,
    qemu_io,
)

ALL = pytest.mark.parametrize("variant", VARIANTS, ids=lambda variant: variant.name)


def qemu_map(path: Path) -> dict[str, Extents]:
    """What `qemu-img map` says is present, reads as zero, and has no offset (is compressed)."""
    found = json.loads(qemu("qemu-img", "map", "--output=json", alone(path)))
    present = [entry for entry in found if entry["present"]]

    def chosen(wanted: list[dict[str, int]]) -> Extents:
        return Extents.of((each["start"], each["start"] + each["length"]) for each in wanted)

    return {
        "held": chosen(present),
        "zero": chosen([each for each in present if each["zero"]]),
        "data": chosen([each for each in present if not each["zero"] and "offset" in each]),
        "compressed": chosen(
            [each for each in present if not each["zero"] and "offset" not in each]
        ),
    }


def assert_well_formed(found: ExtentMap, size: int) -> None:
    ends = found.start + found.length
    assert (found.length > 0).all()
    assert (found.start[1:] >= ends[:-1]).all()
    assert int(ends[-1]) <= size


@ALL
def test_the_map_is_that_of_qemu(variant: Variant, tmp_path: Path) -> None:
    path = variant.make(tmp_path)
    expected = qemu_map(path)
    with Qcow2Layer(path) as layer:
        found = layer.map()
        assert layer.held_size() == found.extents().total
        assert layer.held() == found.extents()
        bits = layer.bitmap()
    assert_well_formed(found, variant.size)
    assert found.extents() == expected["held"]
    told = qemu_info(path)
    clusters = expected["held"].to_bitmap(told["cluster-size"], told["virtual-size"])
    assert bits.tobytes() == np.packbits(clusters).tobytes()
    # qemu also calls data zero that lies in a hole of the file.
    holes = expected["zero"].minus(found.extents(Kind.ZERO))
    assert expected["zero"].covers(found.extents(Kind.ZERO))
    assert found.extents(Kind.DATA) == expected["data"].union(holes)
    assert found.extents(Kind.COMPRESSED) == expected["compressed"]


@ALL
def test_offsets_lead_to_the_data(variant: Variant, tmp_path: Path) -> None:
    path = variant.make(tmp_path)
    expected, file = content(path), path.read_bytes()
    with Qcow2Layer(path) as layer:
        found = layer.map()
    runs = zip(found.start, found.length, found.kind, found.offset, strict=True)
    for start, length, kind, offset in runs:
        if kind == Kind.DATA:
            data = file[offset : offset + length].ljust(length, b"\0")
            assert data == expected[start : start + length]


@ALL
def test_all_that_is_held_reads_as_in_qemu(variant: Variant, tmp_path: Path) -> None:
    path = variant.make(tmp_path)
    expected = content(path)
    with Qcow2Layer(path) as layer:
        for start, end in layer.map().extents():
            buffer = bytearray(end - start)
            layer.read_into(start, memoryview(buffer))
            assert buffer == expected[start:end]
            middle = min(start + 1001, end - 1)
            piece = bytearray(min(70_001, end - middle))
            layer.read_into(middle, memoryview(piece))
            assert piece == expected[middle : middle + len(piece)]


def test_bytes_that_are_not_held_are_refused(tmp_path: Path) -> None:
    path = VARIANTS[0].make(tmp_path)
    with Qcow2Layer(path) as layer:
        for offset, length in ((0, 512), (65536 - 512, 1024), (4 * MIB - 512, 1024), (8 * MIB, 1)):
            with pytest.raises(ValueError, match="byte"):
                layer.read_into(offset, memoryview(bytearray(length)))


def test_subclusters_are_seen_one_by_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "extended_l2=on", path, "1M")
    # Over a parent only the subclusters that were written count, so name one.
    qemu("qemu-img", "rebase", "-q", "-u", "-b", "none", "-F", "raw", alone(path))
    qemu_io(path, "write -P 1 10k 2k", "write -z 20k 6k", "write -P 2 200k 4k")
    with Qcow2Layer(path) as layer:
        assert layer.map().extents() == qemu_map(path)["held"]
        assert layer.map().extents().total < 65536


def test_a_disk_whose_tables_are_not_adjacent(tmp_path: Path) -> None:
    path = tmp_path / "a"
    qemu("qemu-img", "create", "-q", "-f", "qcow2", "-o", "cluster_size=4096", path, "64M")
    writes = [
        f"write -P {number + 1} {place}M 64k"
        for number, place in enumerate((40, 2, 62, 20, 8, 22, 4, 0, 60, 30))
    ]
    qemu_io(path, *writes)
    expected = content(path)
    with Qcow2Layer(path) as layer:
        assert layer.map().extents() == qemu_map(path)["held"]
        for start, end in layer.map().extents():
            buffer = bytearray(end - start)
            layer.read_into(start, memoryview(buffer))
            assert buffer == expected[start:end]


def test_zstd_is_read(tmp_path: Path) -> None:
    variant = Variant("zstd", "compat=1.1,compression_type=zstd", compressed=True)
    path = variant.make(tmp_path)
    expected = content(path)
    with Qcow2Layer(path) as layer:
        assert layer.map().extents() == qemu_map(path)["held"]
        compressed = layer.map().extents(Kind.COMPRESSED)
        assert len(compressed)
        for start, end in compressed:
            buffer = bytearray(end - start)
            layer.read_into(start, memoryview(buffer))
            assert buffer == expected[start:end]
