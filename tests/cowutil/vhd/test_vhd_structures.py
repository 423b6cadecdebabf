"""Footer, header, geometry, tables and extents against the specification, qemu and slow models."""

from __future__ import annotations

import struct
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageCorrupt, SizeOutOfRange
from sm.cowutil.vhd.footer import EPOCH, Footer, Kind, timestamp, unpack_footer
from sm.cowutil.vhd.geometry import geometry
from sm.cowutil.vhd.header import Header, Locator, unpack_header
from sm.cowutil.vhd.layer import VhdLayer
from tests.cowutil.vhd.vhd_foreign import MIB, Foreign
from tests.cowutil.vhd.vhd_support import MemoryFile, content, fill, open_disk, ref, util

PATH = Path("image")
U32 = st.integers(0, 2**32 - 1)


@given(
    kind=st.sampled_from(Kind),
    sectors=st.integers(1, 2040 << 21),
    original=st.integers(0, 2**64 - 1),
    when=U32,
    uuid=st.binary(min_size=16, max_size=16),
    hidden=st.booleans(),
    creator=st.binary(min_size=4, max_size=4),
    shape=U32,
)
def test_footers_round_trip(
    kind: Kind, sectors: int, original: int, when: int, uuid: bytes, hidden: bool,
    creator: bytes, shape: int,
) -> None:  # fmt: skip
    footer = Footer(
        kind, sectors * 512, original, 512, when, uuid, hidden, creator=creator, geometry=shape
    )
    raw = footer.pack()
    assert len(raw) == 512
    assert unpack_footer(PATH, raw, 0) == footer
    assert unpack_footer(PATH, raw[:511], 0) == footer
    broken = bytearray(raw)
    broken[50] ^= 1
    with pytest.raises(ImageCorrupt, match="checksum"):
        unpack_footer(PATH, bytes(broken), 0)


@given(
    table=st.integers(1, 2**40).map(lambda n: n * 512),
    entries=U32,
    name=st.text(max_size=100).map(lambda text: text.encode("utf-16-be", "replace")),
    locators=st.lists(
        st.none() | st.builds(
            lambda code, count, short, at: Locator(code, count * 512, count * 512 - short, at),
            st.binary(min_size=4, max_size=4).filter(any), st.integers(1, 2**20),
            st.integers(0, 511), st.integers(0, 2**63),
        ),
        min_size=8, max_size=8,
    ),
)  # fmt: skip
def test_headers_round_trip(
    table: int, entries: int, name: bytes, locators: list[Locator | None]
) -> None:
    header = Header(
        table, entries, parent_name=name[:512].ljust(512, b"\0"), locators=tuple(locators)
    )
    assert unpack_header(PATH, header.pack(), 512) == header


@pytest.mark.parametrize(
    ("size", "cylinders", "heads", "sectors"),
    [
        (20 * MIB, 602, 4, 17),
        (40 * MIB, 963, 5, 17),
        (2040 << 30, 65535, 16, 255),
        (2 * MIB, 60, 4, 17),
    ],
)
def test_geometry(size: int, cylinders: int, heads: int, sectors: int) -> None:
    assert geometry(size) == cylinders << 16 | heads << 8 | sectors


@pytest.mark.parametrize("size", [3 * MIB, 100 * MIB, 600 * MIB, 5 << 30, 100 << 30, 200 << 30])
def test_geometry_is_that_of_qemu(tmp_path: Path, size: int) -> None:
    """qemu rounds the size up to a full geometry, so its own size and geometry must fit ours."""
    path = tmp_path / "qemu.vhd"
    subprocess.run(
        ["qemu-img", "create", "-f", "vpc", path, str(size)], check=True, capture_output=True
    )
    with path.open("rb") as file:
        raw = file.read(512)
    shape, virtual = struct.unpack_from(">I", raw, 56)[0], struct.unpack_from(">Q", raw, 48)[0]
    assert geometry(virtual) == shape


def test_an_image_of_qemu_is_read_and_mended(tmp_path: Path) -> None:
    raw, path = tmp_path / "raw", tmp_path / "qemu.vhd"
    model = bytearray(8 * MIB)
    model[3 * MIB : 3 * MIB + 9] = b"something"
    raw.write_bytes(model)
    command = ["qemu-img", "convert", "-O", "vpc", "-o", "force_size=on", raw, path]
    subprocess.run(command, check=True, capture_output=True)
    assert content([path]) == model
    assert list(util().allocated_extents(path)) == [(2 * MIB, 4 * MIB)]
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(path), 8 * MIB)
    disk = open_disk([child, path])
    fill(disk, model, seed=1, count=5)
    disk.close()
    util().coalesce([ref(child), ref(path)], 1)
    assert content([path]) == model


def test_time_counts_from_2000() -> None:
    assert timestamp(EPOCH + 5.9) == 5
    assert timestamp(0) == 0


@settings(max_examples=50, deadline=None)
@given(
    bitmaps=st.lists(st.binary(min_size=512, max_size=512), min_size=1, max_size=4),
    runs=st.lists(st.tuples(st.integers(0, 4095), st.integers(0, 300)), max_size=12),
    cut=st.integers(0, 4095),
)
def test_maps_are_those_of_a_bit_by_bit_reader(
    bitmaps: list[bytes], runs: list[tuple[int, int]], cut: int
) -> None:
    size = len(bitmaps) * 2 * MIB - cut * 512
    image = Foreign(size=size)
    expected = set()
    for number, random_bits in enumerate(bitmaps):
        bitmap = bytearray(512 if number % 2 else random_bits)
        for start, length in runs:
            for sector in range(start, min(4096, start + length)):
                bitmap[sector >> 3] |= 0x80 >> (sector & 7)
        image.blocks[number] = (0x10000 + number * 0x210000, bytes(bitmap), bytes(2 * MIB))
        for sector in range(4096):
            if bitmap[sector >> 3] & 0x80 >> (sector & 7) and number * 4096 + sector < size // 512:
                expected.add(number * 4096 + sector)
    held = VhdLayer(MemoryFile(image.build())).map()
    found = set()
    for start, length, offset in zip(
        held.start.tolist(), held.length.tolist(), held.offset.tolist(), strict=True
    ):
        sectors = range(start // 512, (start + length) // 512)
        assert found.isdisjoint(sectors)
        found.update(sectors)
        number, within = divmod(start, 2 * MIB)
        assert offset == 0x10000 + number * 0x210000 + 512 + within
    assert found == expected


def test_sizes_are_rounded_up_and_kept_in_bounds(tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    util().create(path, 2 * MIB + 1)
    assert util().info(path).virtual_size == 4 * MIB
    for size in (0, 2 * MIB - 1, (2040 << 30) + 1):
        with pytest.raises(SizeOutOfRange):
            util().create(tmp_path / "other.vhd", size)
    assert not (tmp_path / "other.vhd").exists()
    with pytest.raises(SizeOutOfRange):
        util().resize(path, 4 * MIB - 1)
    with pytest.raises(SizeOutOfRange):
        util().resize(path, 2041 << 30)
    with pytest.raises(FileExistsError):
        util().create(path, 4 * MIB)


def test_growth_moves_no_block_of_our_own_images(tmp_path: Path) -> None:
    """A datapath may have the image open with its table in memory."""
    path = tmp_path / "image.vhd"
    util().create(path, 8 * MIB)
    assert path.stat().st_blocks * 512 < 64 << 10
    model = bytearray(8 * MIB)
    disk = open_disk([path])
    fill(disk, model, seed=1, count=9)
    disk.close()
    with util().open_layer(path) as layer:
        before = layer.map()
        util().resize(path, 1000 << 30)
        for start, length in zip(before.start.tolist(), before.length.tolist(), strict=True):
            data = bytearray(length)
            layer.read_into(start, memoryview(data))
            assert data == model[start : start + length]


def test_merging_into_an_image_that_is_not_the_parent(tmp_path: Path) -> None:
    for name in ("parent.vhd", "stranger.vhd"):
        util().create(tmp_path / name, 4 * MIB)
    util().snapshot(tmp_path / "child.vhd", ref(tmp_path / "parent.vhd"), 4 * MIB)
    before = (tmp_path / "stranger.vhd").read_bytes()
    (tmp_path / "raw").write_bytes(bytes(4 * MIB))
    for wrong in (ref(tmp_path / "stranger.vhd"), ImageRef(tmp_path / "raw", "raw")):
        with pytest.raises(ImageCorrupt, match="parent unique id"):
            util().coalesce([ref(tmp_path / "child.vhd"), wrong], 1)
    assert (tmp_path / "stranger.vhd").read_bytes() == before


def test_headers_are_read_and_changed_without_numpy(tmp_path: Path) -> None:
    script = """
import sys
from pathlib import Path
from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.process import run
vhd, folder = VhdUtil(run), Path(sys.argv[1])
parent, child = folder / "parent", folder / "child"
vhd.create(parent, 1 << 30)
for name in (child, folder / "other"):
    vhd.snapshot(name, ImageRef(parent, "vhd"), 1 << 30)
vhd.set_parent(child, ImageRef(folder / "other", "vhd"))
vhd.set_hidden(parent, True)
assert vhd.info(parent).hidden and vhd.info(child).parent.name == "other"
assert "numpy" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True)
