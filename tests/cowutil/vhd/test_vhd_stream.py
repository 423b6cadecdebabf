"""VHDs written in one pass, read by qemu and libvhdi."""

from __future__ import annotations

import random
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.extents import Extents
from sm.cowutil.stream import Piece, Zeroes
from sm.cowutil.vhd.geometry import geometry
from sm.cowutil.vhd.stream import plan, stream
from tests.cowutil.vhd.vhd_foreign import checksummed
from tests.cowutil.vhd.vhd_support import MIB, Libvhdi, open_disk, qemu_content, ref, util

BLOCK = 2 * MIB
NOW = 1_700_000_000


def reader_of(disk: bytes) -> Callable[[int, memoryview], None]:
    """Gives the disk, and insists that it is read forwards and not beyond its end."""
    position = 0

    def read(offset: int, buffer: memoryview) -> None:
        nonlocal position
        assert position <= offset
        position = offset + len(buffer)
        assert position <= len(disk)
        buffer[:] = disk[offset:position]

    return read


def plain(piece: Piece) -> bytes:
    """The bytes of a piece."""
    return bytes(piece.length) if isinstance(piece, Zeroes) else bytes(piece)


def written(path: Path, disk: bytes, data: Extents) -> Path:
    chosen = plan(len(disk), data)
    with path.open("wb") as file:
        for piece in stream(chosen, reader_of(disk), NOW):
            file.write(plain(piece))
    assert path.stat().st_size == chosen.total
    return path


def scribbled(size: int, parts: int) -> tuple[bytes, Extents]:
    """A disk with some random data, and where that is."""
    generator = random.Random(size * parts)
    disk, ranges = bytearray(size), []
    for _ in range(parts):
        start = generator.randrange(size)
        end = min(size, start + generator.randrange(1, 700_000))
        disk[start:end] = generator.randbytes(end - start)
        ranges.append((start, end))
    return bytes(disk), Extents.of(ranges)


@pytest.mark.parametrize("size", [512, 100 << 10, 5 * MIB + 512 * 3, 64 * MIB])
@pytest.mark.parametrize("parts", [0, 1, 12])
def test_what_is_streamed_is_what_others_read(size: int, parts: int, tmp_path: Path) -> None:
    disk, data = scribbled(size, parts)
    path = written(tmp_path / "a.vhd", disk, data)
    whole = disk.ljust(-(-size // BLOCK) * BLOCK, b"\0")
    assert qemu_content(path) == whole
    assert Libvhdi().content([path]) == whole
    report = util().check(path)
    assert report.clean, report
    info = util().info(path)
    assert (info.virtual_size, info.parent, info.hidden) == (len(whole), None, False)
    assert util().allocated_extents(path) == data.align(BLOCK)


def test_the_structures_are_as_the_specification_has_them(tmp_path: Path) -> None:
    disk = bytes(BLOCK) + b"\x07" * BLOCK + bytes(3 * BLOCK)
    image = written(tmp_path / "a.vhd", disk, Extents.of([(BLOCK, BLOCK + 1)])).read_bytes()
    footer = image[:512]
    assert image[-512:] == footer
    assert checksummed(footer, 64) == footer
    fields = struct.unpack_from(">8sIIQI4sI4sQQIII", footer)
    creator, version, original, current, shape, kind = (*fields[5:7], *fields[8:12])
    assert (fields[0], creator, version, kind) == (b"conectix", b"tap\0", 0x10003, 3)
    assert (original, current) == (len(disk), len(disk))
    assert shape == geometry(len(disk)) == 301 << 16 | 4 << 8 | 17
    assert fields[4] == NOW - 946684800
    header = image[fields[3] : fields[3] + 1024]
    assert checksummed(header, 36) == header
    table, entries, block_size = struct.unpack_from(">8x8xQ4xII", header)
    assert (entries, block_size) == (5, BLOCK)
    positions = struct.unpack_from(">5I", image, table)
    assert [place == 0xFFFFFFFF for place in positions] == [True, False, True, True, True]
    at = positions[1] * 512
    assert image[at : at + 512] == b"\xff" * 512
    assert (at + 512) % 4096 == 0
    assert image[at + 512 : at + 512 + BLOCK] == disk[BLOCK : 2 * BLOCK]
    assert at + 512 + BLOCK == len(image) - 512
    batmap = table + 512
    cookie, where, sectors, version, stored = struct.unpack_from(">8sQIII", image, batmap)
    assert (cookie, where, sectors, version) == (b"tdbatmap", batmap + 512, 1, 0x10002)
    bits = image[where : where + 512]
    assert bits == b"\x40" + bytes(511)
    assert stored == 0xFFFFFFFF - sum(bits)


@pytest.mark.parametrize("blocks", [4096, 4097, 4103, 4104, 2040 << 9])
def test_large_disks(blocks: int, tmp_path: Path) -> None:
    """Around 8 GiB the batmap of blktap has bits that its checksum leaves out; and the largest."""
    size = blocks * BLOCK
    data = Extents.of([(0, 1), (size // 2, size // 2 + 1), (size - 512, size)])
    chosen = plan(size, data)
    assert len(chosen.blocks) == 3
    path = tmp_path / "a.vhd"
    with path.open("wb") as file:
        for piece in stream(chosen, lambda _, buffer: buffer.__setitem__(-1, 9), NOW):
            file.write(plain(piece))
    assert path.stat().st_size == chosen.total
    assert util().check(path).clean
    command = ("qemu-io", "-r", "-f", "vpc", "-c", f"read -P 9 {size - 1} 1", str(path))
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert "failed" not in said.lower(), said
    rows = util().open_layer(path).map()
    assert rows.start.tolist() == [block * BLOCK for block in chosen.blocks.tolist()]


def test_a_streamed_image_lives_on(tmp_path: Path) -> None:
    """It is written to, grown, hidden and made a parent like one that was made in place."""
    disk, data = scribbled(9 * MIB + 512, 3)
    path = written(tmp_path / "a.vhd", disk, data)
    model = bytearray(disk.ljust(5 * BLOCK, b"\0"))
    guest = open_disk([path])
    guest.pwrite(3 * BLOCK + 512, b"\x33" * 1024)
    guest.flush()
    guest.close()
    model[3 * BLOCK + 512 : 3 * BLOCK + 1536] = b"\x33" * 1024
    util().resize(path, 9 << 30)
    util().set_hidden(path, True)
    child = tmp_path / "b.vhd"
    util().snapshot(child, ref(path), 9 << 30)
    assert util().check(path).clean
    out = subprocess.run(
        ["qemu-img", "dd", "-f", "vpc", "-O", "raw", "bs=1M", "count=12", f"if={path}",
         f"of={tmp_path / 'out'}"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert out.stderr == ""
    assert (tmp_path / "out").read_bytes() == model.ljust(12 * MIB, b"\0")


def test_through_a_pipe_it_is_the_same(tmp_path: Path) -> None:
    disk, data = scribbled(20 * MIB, 5)
    path = tmp_path / "a.vhd"
    with path.open("wb") as file:
        copy = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file)
        assert copy.stdin is not None
        for piece in util().stream(len(disk), data, reader_of(disk)):
            copy.stdin.write(plain(piece))
        copy.stdin.close()
        assert copy.wait() == 0
    assert path.stat().st_size == util().measure(len(disk), data).required
    assert qemu_content(path) == disk


def test_two_streams_are_two_images(tmp_path: Path) -> None:
    one = written(tmp_path / "a.vhd", bytes(BLOCK), Extents.of([]))
    other = written(tmp_path / "b.vhd", bytes(BLOCK), Extents.of([]))
    assert Libvhdi().identifier(one) != Libvhdi().identifier(other)


@pytest.mark.parametrize("size", [0, 1000, (2040 << 30) + 512])
def test_impossible_disks_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="no VHD holds"):
        plan(size, Extents.of([]))


def test_data_behind_the_end_is_not_sent() -> None:
    chosen = plan(3 * MIB, Extents.of([(0, 1), (4 * MIB, 9 * MIB)]))
    assert chosen.blocks.tolist() == [0]


def test_a_streamed_image_is_a_chain_member(tmp_path: Path) -> None:
    disk, data = scribbled(8 * MIB, 4)
    base = written(tmp_path / "a.vhd", disk, data)
    child = tmp_path / "b.vhd"
    util().snapshot(child, ImageRef(base, "vhd"), 8 * MIB)
    assert Libvhdi().content([child, base]) == disk
