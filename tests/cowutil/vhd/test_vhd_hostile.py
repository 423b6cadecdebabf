"""Images made to harm: each ends in a typed refusal or a correct result, within bounds."""

from __future__ import annotations

import random
import struct
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sm.cowutil.base import AT_ONCE, ImageRef, no_progress
from sm.cowutil.errors import ImageCorrupt, ImageError, ImageUnsupported
from sm.cowutil.vhd.block_file import Access, BlockFile
from sm.cowutil.vhd.coalesce import merge
from sm.cowutil.vhd.disk import VhdDisk
from sm.cowutil.vhd.footer import checksum
from tests.cowutil.vhd.vhd_foreign import MIB, Foreign, checksummed
from tests.cowutil.vhd.vhd_support import MemoryFile, util
from tests.support.tiers import SEED, SOAK

BLOCK = 64 << 10
SIZE = 16 * BLOCK
PATH = Path("image.vhd")
MUTATIONS = 4000 if SOAK else 1500


class Image(MemoryFile):
    """An image in memory that refuses writes unless told otherwise and counts what is read."""

    def __init__(self, content: bytearray, *, writable: bool = False) -> None:
        super().__init__(content, PATH)
        self.writable = writable
        self.read = 0

    def read_into(self, offset: int, buffer: memoryview) -> int:
        assert offset >= 0
        self.read += len(buffer)
        return super().read_into(offset, buffer)

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        assert self.writable, "a read wrote"
        assert offset + len(data) < 1 << 30, "wrote far behind the image"
        super().write(offset, data)


def opener(image: BlockFile) -> Callable[[Path, Access], BlockFile]:
    def opened(path: Path, access: Access) -> BlockFile:
        assert path == PATH, f"opened {path}, which the image names"
        return image

    return opened


def sound() -> bytearray:
    """A small child with three blocks."""
    dice = random.Random(0)
    blocks = {
        number: (0x8000 + index * 0x11000, dice.randbytes(512), dice.randbytes(BLOCK))
        for index, number in enumerate((3, 7, 9))
    }
    locators = [
        (b"W2ru", ".\\parent.vhd".encode("utf-16-le"), 0x1000, 512),
        (b"MacX", b"file://./parent.vhd", 0x1200, 512),
    ]
    batmap = b"tdbatmap" + struct.pack(">QIII", 0x2400, 1, 0x10002, 0xFFFFFFFF)
    return Foreign(
        size=SIZE, block_size=BLOCK, locators=locators, name="parent.vhd", parent=b"p" * 16,
        creator=b"tap\0", version=0x10003, blocks=blocks,
        extra={0x2200: batmap, 0x2400: bytes(512)},
    ).build()  # fmt: skip


SPOTS = (
    (0, 86),
    (512, 768),
    (512 + 576, 48),
    (0x1000, 64),
    (0x1200, 64),
    (0x2000, 64),
    (0x2200, 32),
)
VALUES = (0, 1, 2, 511, 512, 0x1FF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFE, 0xFFFFFFFF, 0x40, 0x88)


def mutants() -> Iterator[tuple[int, bytearray]]:
    """Sound images with a few fields changed; most get checksums that fit again."""
    genuine = sound()
    for seed in range(MUTATIONS):
        dice = random.Random(f"{SEED} {seed}")
        image = bytearray(genuine)
        for _ in range(dice.choice((1, 1, 2, 4))):
            start, length = dice.choice(SPOTS)
            width = dice.choice((1, 2, 4, 8))
            at = start + dice.randrange(0, length) // width * width
            value = dice.choice((*VALUES, dice.getrandbits(64)))
            image[at : at + width] = (value % (1 << 8 * width)).to_bytes(width, "big")
        if dice.random() < 0.8:
            image[512:1536] = checksummed(bytes(image[512:1536]), 36)
            image[:512] = checksummed(bytes(image[:512]), 64)
        if dice.random() < 0.5:
            image[-512:] = image[:512]
        if dice.random() < 0.1:
            del image[dice.randrange(len(image)) :]
        yield seed, image


def test_mutated_metadata() -> None:
    refused = passed = 0
    for seed, content in mutants():
        try:
            image = Image(content)
            vhd = util(opener(image))
            try:
                report = vhd.check(PATH)
                info = vhd.info(PATH)
                assert 0 < info.virtual_size <= 2040 << 30
                held = vhd.allocated_extents(PATH)
                assert held.total <= vhd.allocated_size(PATH) <= info.virtual_size
                with vhd.open_layer(PATH) as layer:
                    for start, end in list(held)[:4]:
                        layer.read_into(start, memoryview(bytearray(min(end - start, 4096))))
                passed += 1
            except ImageError:
                refused += 1
                continue
            copy = Image(bytearray(content), writable=True)
            try:
                disk = VhdDisk(copy)
            except ImageError:
                continue
            disk.pwrite(info.virtual_size - 512, b"\x5a" * 512)
            disk.close()
            after = util(opener(Image(copy.content))).check(PATH)
            assert set(after.corruptions) <= set(report.corruptions), after
        except Exception as error:
            error.add_note(f"mutant {seed}")
            raise
    assert refused > MUTATIONS // 10
    assert passed > MUTATIONS // 10


class Sparse(MemoryFile):
    """A file of any length of which only some pieces are not zero."""

    def __init__(self, length: int, pieces: dict[int, bytes]) -> None:
        super().__init__(bytearray(), PATH)
        self.length = length
        self.pieces = pieces

    def size(self) -> int:
        return self.length

    def read_into(self, offset: int, buffer: memoryview) -> int:
        end = min(offset + len(buffer), self.length)
        buffer[: max(0, end - offset)] = bytes(max(0, end - offset))
        for at, piece in self.pieces.items():
            low, high = max(at, offset), min(at + len(piece), end)
            if low < high:
                buffer[low - offset : high - offset] = piece[low - at : high - at]
        return max(0, end - offset)


def huge(image: Foreign, length: int, table: bytes = b"") -> Sparse:
    return Sparse(
        length,
        {0: image.footer(), 512: image.header(), 0x2000: table, length - 512: image.footer()},
    )


def test_the_largest_tables_stay_within_64_mebibytes() -> None:
    blocks = (2040 << 30) // (512 << 10)
    stride = 512 + (512 << 10)
    first = 1 << 26
    positions = struct.pack(
        f">{blocks // 4}I", *((first + index * stride) // 512 for index in range(blocks // 4))
    )
    table = positions.ljust(4 * blocks, b"\xff")
    del positions
    image = Foreign(size=2040 << 30, block_size=512 << 10)
    file = huge(image, first + blocks // 4 * stride + 512, table)
    tracemalloc.start()
    try:
        assert util(opener(file)).allocated_size(PATH) == blocks // 4 * (512 << 10)
        assert tracemalloc.get_traced_memory()[1] < 64 * MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("image", "length", "field"),
    [
        (Foreign(entries=0xFFFFFFFF), 1 << 40, "table entries"),
        (Foreign(entries=1 << 22), 8 * MIB, "table offset"),
        (Foreign(entries=1), 8 * MIB, "table entries"),
        (Foreign(size=2040 << 30, block_size=4096), 1 << 40, "block size"),
        (Foreign(block_size=3 << 18), 8 * MIB, "block size"),
        (Foreign(table_at=1024), 8 * MIB, "table offset"),
        (Foreign(table_at=0x2100), 8 * MIB, "table offset"),
        (Foreign(header_at=2**63), 8 * MIB, "data offset"),
        (Foreign(header_at=8 * MIB), 8 * MIB, "data offset"),
    ],
)
def test_refusals_name_the_field(image: Foreign, length: int, field: str) -> None:
    file = huge(image, length)
    tracemalloc.start()
    try:
        with pytest.raises(ImageCorrupt, match=field):
            util(opener(file)).allocated_size(PATH)
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("block_size", [0x400, 4 << 20, 1 << 31])
def test_unreasonable_block_sizes(block_size: int) -> None:
    file = huge(Foreign(block_size=block_size), 8 * MIB)
    with pytest.raises(ImageUnsupported):
        util(opener(file)).info(PATH)


@pytest.mark.parametrize(
    ("entries", "problem"),
    [
        ((0x30, 0x30), "overlaps"),
        ((0x30, 0x31), "overlaps"),
        ((0x30, 0x1000), "overlaps"),
        ((0,), "in front"),
        ((0x10,), "in front"),
        ((0xFFFFFFFE,), "behind the end"),
        ((0x4000,), "behind the end"),
    ],
)
def test_table_entries_that_cannot_be(entries: tuple[int, ...], problem: str) -> None:
    table = struct.pack(f">{len(entries)}I", *entries).ljust(8, b"\xff")
    file = huge(Foreign(), 8 * MIB, table)
    vhd = util(opener(file))
    for read in (vhd.allocated_size, vhd.allocated_extents):
        with pytest.raises(ImageCorrupt, match=problem):
            read(PATH)
    assert vhd.check(PATH).corruptions
    with pytest.raises(ImageCorrupt, match=problem):
        VhdDisk(Image(sparse_bytes(file), writable=True))


def sparse_bytes(file: Sparse) -> bytearray:
    data = bytearray(file.size())
    file.read_into(0, memoryview(data))
    return data


def test_an_image_that_names_itself_is_not_followed() -> None:
    locators = [(b"W2ru", ".\\image.vhd".encode("utf-16-le"), 0x1000, 512)]
    content = Foreign(locators=locators, name="image.vhd", parent=b"0123456789abcdef").build()
    vhd = util(opener(Image(content)))
    link = vhd.info(PATH).parent
    assert link is not None
    assert link.name == "image.vhd"
    assert vhd.allocated_size(PATH) == 0


def test_a_chain_that_cannot_be_merged_is_left_alone() -> None:
    def parent() -> Image:
        return Image(Foreign(size=2 * MIB).build(), writable=False)

    with pytest.raises(ImageUnsupported, match="no parent"):
        merge([ImageRef(PATH, "vhd")] * 2, 1, no_progress, AT_ONCE, opener(parent()))
    with pytest.raises(ImageUnsupported, match="qcow2 above"):
        merge(
            [ImageRef(PATH, "qcow2"), ImageRef(PATH, "vhd")],
            1,
            no_progress,
            AT_ONCE,
            opener(parent()),
        )
    for into in (0, 2, -1):
        with pytest.raises(ValueError, match="nothing above"):
            merge([ImageRef(PATH, "vhd")] * 2, into, no_progress, AT_ONCE, opener(parent()))


def test_the_checksum_is_that_of_the_specification() -> None:
    # Worked by hand: the one's complement of a byte sum of 510.
    assert checksum(b"\xff\xff") == 0xFFFFFE01
