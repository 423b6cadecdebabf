"""`sm image map` against qemu-img, against the files themselves, and in its other forms."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.process import run
from tests.cli.image_files import MIB, SM, chain_content, mixed_chain, qcow2, sm, sm_text, write
from tests.cowutil.contract.subjects import tool
from tests.cowutil.qcow2.images import BY_NAME, qemu_info
from tests.cowutil.vhd.vhd_support import Libvhdi, open_disk

SECTOR = 512
HOLE, DATA, ZERO = range(3)
CLASSES = {"hole": HOLE, "data": DATA, "compressed": DATA, "zero": ZERO}


def spread(rows: Sequence[dict[str, Any]], size: int) -> tuple[Any, Any, Any]:
    """For each sector: class, depth, offset in the file (-1 for none); rows must not leave gaps."""
    count = -(-size // SECTOR)
    kinds, depths, offsets = (np.full(count, -1, dtype=np.int64) for _ in range(3))
    position = 0
    for row in rows:
        assert row["start"] == position
        assert row["length"] > 0
        position += row["length"]
        part = slice(row["start"] // SECTOR, -(-position // SECTOR))
        kinds[part], depths[part] = row["class"], row["depth"]
        if row["offset"] is not None:
            length = len(kinds[part])
            offsets[part] = row["offset"] + np.arange(length) * SECTOR
    assert position == size
    return kinds, depths, offsets


def ours(path: Path, size: int, *more: str) -> tuple[Any, Any, Any]:
    document = sm("map", path, *more)
    assert document["virtual_size"] == size
    for row in document["extents"]:
        assert set(row) == {"start", "length", "depth", "type", "offset"}
        row["class"] = CLASSES[row["type"]]
        if row["type"] == "hole":
            assert (row["depth"], row["offset"]) == (None, None)
            row["depth"] = -1
    return spread(document["extents"], size)


def qemus(path: Path, size: int, raw_depth: int | None = None) -> tuple[Any, Any, Any]:
    """What qemu-img says; it calls a hole in a raw file a zero."""
    rows = json.loads(tool("qemu-img", "map", "--output=json", "-f", "qcow2", str(path)))
    for row in rows:
        hole = not row["present"] or (row["depth"] == raw_depth and not row["data"])
        row["class"] = HOLE if hole else DATA if row["data"] else ZERO
        row["depth"] = -1 if hole else row["depth"]
        row["offset"] = None if hole else row.get("offset")
    return spread(rows, size)


def assert_same(left: tuple[Any, Any, Any], right: tuple[Any, Any, Any]) -> None:
    for one, other in zip(left, right, strict=True):
        assert np.array_equal(one, other)


def test_a_mixed_chain_is_mapped_as_qemu_maps_it(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    sizes = (12 * MIB, 20 * MIB, 5 * MIB)
    for depth, (image, size) in enumerate(zip(chain, sizes, strict=False)):
        assert_same(ours(image.path, size), qemus(image.path, size, raw_depth=3 - depth))


@pytest.mark.parametrize(
    "name", ["odd_size", "clusters_512", "extended", "full_metadata", "deflate_4k"]
)
def test_single_images_are_mapped_as_qemu_maps_them(name: str, tmp_path: Path) -> None:
    path = BY_NAME[name].make(tmp_path)
    size = int(qemu_info(path)["virtual-size"])
    assert_same(ours(path, size, "--format", "qcow2"), qemus(path, size))


def test_data_is_in_the_files_where_the_map_says(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    content = chain_content(chain)
    document = sm("map", chain[0].path)
    assert [image["path"] for image in document["images"]] == [str(each.path) for each in chain]
    files = [Path(image["path"]).read_bytes() for image in document["images"]]
    kinds = set()
    for row in document["extents"]:
        part = content[row["start"] : row["start"] + row["length"]]
        kinds.add(row["type"])
        if row["type"] in ("hole", "zero"):
            assert not any(part)
        elif row["type"] == "data":
            assert files[row["depth"]][row["offset"] : row["offset"] + len(part)] == part
    assert kinds == {"hole", "zero", "data", "compressed"}


def test_a_vhd_chain_is_mapped_to_the_sector(tmp_path: Path) -> None:
    """qemu knows no parents of VHDs: libvhdi tells the content, the files themselves the rest."""
    names = ("low", "mid", "top")
    chain: list[Path] = []
    model = bytearray(6 * MIB)
    for seed, name in enumerate(names):
        path = tmp_path / f"{name}.vhd"
        if chain:
            VhdUtil(run).snapshot(path, ImageRef(chain[0], "vhd"), 6 * MIB)
        else:
            VhdUtil(run).create(path, 6 * MIB)
        chain.insert(0, path)
        disk = open_disk(chain)
        dice = random.Random(seed)
        for _ in range(9):
            offset = dice.randrange(0, 5 * MIB, 4096)
            data = dice.randbytes(4096 * dice.randrange(1, 32))
            disk.pwrite(offset, data)
            model[offset : offset + len(data)] = data
        disk.flush()
        disk.close()
    content = Libvhdi().content(chain)
    assert content == model
    rows = sm("map", chain[0])["extents"]
    held = bytearray(len(content))
    for row in rows:
        if row["type"] == "data":
            with chain[row["depth"]].open("rb") as file:
                file.seek(row["offset"])
                held[row["start"] : row["start"] + row["length"]] = file.read(row["length"])
    assert held == content
    assert {row["depth"] for row in rows} == {None, 0, 1, 2}
    assert sum(row["length"] for row in rows) == len(content)


def test_alone_is_the_one_image(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    _, depths, _ = ours(chain[0].path, 12 * MIB, "--alone")
    assert set(depths.tolist()) == {-1, 0}


def test_intervals_have_the_form_of_block_lists(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", 24 * MIB, "cluster_size=2M")
    for block in (0, 2, 3, 9):
        write(image, f"write -P 1 {block * 2}M 512")
    expected = {
        "virtual_size": 25165824,
        "cluster_bits": 21,
        "data_clusters": [[0, 0], [2, 3], [9, 9]],
    }
    assert sm("map", image.path, "--intervals") == expected
    assert json.loads(sm_text("map", image.path, "--intervals")[1]) == expected
    finer = sm("map", image.path, "--intervals", "--granularity", "1MiB")
    assert finer["cluster_bits"] == 20
    assert finer["data_clusters"] == [[0, 1], [4, 7], [18, 19]]
    empty = qcow2(tmp_path / "b.qcow2", 24 * MIB)
    assert sm("map", empty.path, "--intervals")["data_clusters"] == []


def test_a_last_partial_block_counts(tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", 100 << 10)
    write(image, "write -P 1 65536 36864")
    assert sm("map", image.path, "--intervals")["data_clusters"] == [[1, 1]]
    bits = tmp_path / "bits"
    assert sm("map", image.path, "--bitmap", bits)["bits"] == 2
    assert bits.read_bytes() == b"\x40"


def test_a_bitmap_has_the_first_block_in_the_highest_bit(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    kinds, _, _ = ours(chain[0].path, 12 * MIB)
    bits = tmp_path / "bits"
    document = sm("map", chain[0].path, "--bitmap", bits, "--granularity", "4KiB")
    assert document["granularity"] == 4096
    expected = (kinds == DATA).reshape(-1, 8).any(axis=1)
    assert document["bits"] == len(expected)
    assert bits.read_bytes() == np.packbits(expected).tobytes()
    assert sm("map", chain[0].path, "--bitmap", bits, code=1)["error"]["name"] == "InvalidArg"
    sm("map", chain[0].path, "--bitmap", bits, "--force")
    assert len(bits.read_bytes()) == 12 * MIB // (64 << 10) // 8


def test_a_large_sparse_disk_has_few_rows(tmp_path: Path) -> None:
    size = 16 << 40
    image = qcow2(tmp_path / "a.qcow2", size)
    write(image, f"write -P 1 {size - 65536} 64k", "write -P 2 7T 1k")
    rows = sm("map", image.path)["extents"]
    assert [row["type"] for row in rows] == ["hole", "data", "hole", "data"]
    bits = tmp_path / "bits"
    sm("map", image.path, "--bitmap", bits)
    packed = bits.read_bytes()
    assert len(packed) == 32 << 20
    assert packed[-1] == 1
    assert packed[7 * 2**40 // 65536 // 8] == 0x80
    assert packed.count(0) == len(packed) - 2


def test_many_rows_come_in_batches(tmp_path: Path) -> None:
    """More rows than become text at once: every second sector of a raw disk, in a 4 KiB grid."""
    path = tmp_path / "a.raw"
    count = 20000
    with path.open("wb") as file:
        for number in range(count):
            file.seek(number * 8192)
            file.write(b"x" * 4096)
        file.truncate(count * 8192)
    rows = sm("map", path)["extents"]
    assert len(rows) == 2 * count
    assert [row["start"] for row in rows] == list(range(0, count * 8192, 4096))
    text = sm_text("map", path)[1].splitlines()
    assert len(text) == 2 * count + 1
    assert text[-1].split() == [str(count * 8192 - 4096), "4096", "-", "hole", "-"]
    intervals = sm("map", path, "--intervals", "--granularity", "4096")["data_clusters"]
    assert intervals == [[number * 2, number * 2] for number in range(count)]


@pytest.mark.parametrize("size", ["1000", "3MiB", "256"])
def test_odd_granularities_are_refused(size: str, tmp_path: Path) -> None:
    image = qcow2(tmp_path / "a.qcow2", MIB)
    error = sm("map", image.path, "--intervals", "--granularity", size, code=1)["error"]
    assert "power of two" in error["message"]


def test_a_bitmap_of_an_absurd_disk_is_refused(tmp_path: Path) -> None:
    """One that a crafted header claims: it would fill the file system with zeroes."""
    image = qcow2(tmp_path / "a.qcow2", 1 << 50, "cluster_size=2M")
    bits = tmp_path / "bits"
    error = sm("map", image.path, "--bitmap", bits, "--granularity", "512", code=1)["error"]
    assert "--granularity" in error["message"]
    assert not bits.exists()


def test_a_reader_that_goes_away_is_no_error_message(tmp_path: Path) -> None:
    path = tmp_path / "a.raw"
    with path.open("wb") as file:
        for number in range(5000):
            file.seek(number * 8192)
            file.write(b"x" * 4096)
    command = f"set -o pipefail; {SM} image map {path} | head -1"
    piped = subprocess.run(["bash", "-c", command], capture_output=True, check=False)
    assert piped.returncode == 1
    assert piped.stderr == b""
