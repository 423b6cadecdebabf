"""Images written in one pass, read by qemu."""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from sm.cowutil.chain import ChainReader
from sm.cowutil.extents import Extents, Kind
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.stream import plan, stream
from tests.cowutil.contract.subjects import qemu_content
from tests.cowutil.qcow2.images import MIB, content, qemu, qemu_check
from tests.cowutil.qcow2.test_qcow2_merge import chain_of


def reader_of(disk: bytes) -> Callable[[int, memoryview], None]:
    def read(offset: int, buffer: memoryview) -> None:
        assert offset + len(buffer) <= len(disk)
        buffer[:] = disk[offset : offset + len(buffer)]

    return read


def written(folder: Path, disk: bytes, data: Extents, cluster_bits: int) -> Path:
    chosen = plan(len(disk), data, cluster_bits)
    path = folder / "streamed"
    with path.open("wb") as file:
        for piece in stream(chosen, reader_of(disk)):
            file.write(piece)
    assert path.stat().st_size == chosen.total
    return path


@pytest.mark.parametrize("cluster_bits", [9, 12, 16, 21])
@pytest.mark.parametrize("size", [512, 100 << 10, 5 * MIB + 512 * 3])
@pytest.mark.parametrize("parts", [0, 1, 30])
def test_what_is_streamed_is_what_qemu_reads(
    size: int, parts: int, cluster_bits: int, tmp_path: Path
) -> None:
    generator = random.Random(size * parts)
    disk, ranges = bytearray(size), []
    for _ in range(parts):
        start = generator.randrange(size)
        end = min(size, start + generator.randrange(1, 200_000))
        disk[start:end] = generator.randbytes(end - start)
        ranges.append((start, end))
    data = Extents.of(ranges)
    path = written(tmp_path, bytes(disk), data, cluster_bits)
    assert qemu_check(path) == (0, 0)
    assert content(path) == disk
    with Qcow2Layer(path) as layer:
        whole = data.align(1 << cluster_bits).clip(0, size)
        assert layer.map().extents() == whole


def test_a_known_layout(tmp_path: Path) -> None:
    """1 GiB with guest clusters 0, 1 and 8192 in use: nine clusters, at known places."""
    data = Extents.of([(0, 131072), (8192 * 65536, 8193 * 65536)])
    chosen = plan(1 << 30, data)
    assert chosen.total == 589824
    image = b"".join(bytes(part) for part in stream(chosen, lambda _, buffer: None))
    assert int.from_bytes(image[40:48], "big") == 0x30000
    assert image[0x30000:0x30010].hex() == "80000000000400008000000000050000"
    assert int.from_bytes(image[0x40008:0x40010], "big") == 0x8000000000070000
    assert int.from_bytes(image[0x50000:0x50008], "big") == 0x8000000000080000


def test_an_empty_disk_has_four_clusters() -> None:
    assert plan(1 << 30, Extents.of([])).total == 4 * 65536


def test_a_chain_becomes_one_image_through_a_pipe(tmp_path: Path) -> None:
    chain = chain_of(tmp_path, 4)
    expected = qemu_content(chain)
    out = tmp_path / "copy.qcow2"
    with ExitStack() as stack:
        layers = [stack.enter_context(Qcow2Layer(member.path)) for member in chain]
        disk = ChainReader(layers, layers[0].virtual_size)
        chosen = plan(disk.virtual_size, disk.extents(Kind.DATA, Kind.COMPRESSED))
        with out.open("wb") as file:
            copy = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
            assert copy.stdin is not None
            for piece in stream(chosen, disk.read_into):
                copy.stdin.write(piece)
            copy.stdin.close()
            assert copy.wait() == 0
    assert qemu_check(out) == (0, 0)
    assert content(out) == expected


def test_large_disks_are_laid_out_as_qemu_understands(tmp_path: Path) -> None:
    size = 16 << 40
    data = Extents.of([(0, 1), (size // 2, size // 2 + MIB), (size - 65536, size)])
    path = tmp_path / "large"
    with path.open("wb") as file:
        for piece in stream(plan(size, data), lambda _, buffer: buffer.__setitem__(0, 1)):
            file.write(piece)
    assert qemu_check(path) == (0, 0)
    qemu("qemu-io", "-r", "-f", "qcow2", "-c", f"read -P 1 {size - 65536} 1", str(path))


@pytest.mark.parametrize(("size", "bits"), [(1000, 16), (512, 8), (512, 22), (1 << 50, 9)])
def test_impossible_images_are_refused(size: int, bits: int) -> None:
    with pytest.raises(ValueError, match="bytes in clusters"):
        plan(size, Extents.of([]), bits)
