"""Where readers differ: who is right, and why. Each test holds both sides to what they say.

A reader that begins to agree with us makes its test fail; then the exception for it in `readers`
can go.
"""

from __future__ import annotations

import struct
import subprocess
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageCorrupt
from sm.cowutil.registry import Formats
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content, qemu_io, tool
from tests.cowutil.qcow2.images import alone, qemu_check
from tests.cowutil.vhd.vhd_foreign import MIB, Foreign, checksummed, footer
from tests.cowutil.vhd.vhd_support import qemu_content as qemu_vhd
from tests.cowutil.vhd.vhd_support import ref, util
from tests.crosscheck.readers import (
    dissect_is_wrong,
    dissect_qcow2,
    dissect_vhd,
    libvhdi,
    libvhdi_facts,
    libvhdi_is_wrong,
    ours,
    qemu_size,
)
from tests.hostile.corpus import corpus

BLOCK = 2 * MIB
HALF = 512 << 10
FULL = b"\xff" * 512
LINK = [(b"W2ru", ".\\base.vhd".encode("utf-16-le"), 0x1000, 512)]


def saved(path: Path, image: Foreign) -> ImageRef:
    path.write_bytes(image.build())
    return ref(path)


def over_base(folder: Path, bitmaps: list[bytes]) -> tuple[list[ImageRef], bytes]:
    """A child with these bitmaps over a full parent, and the disk as the specification has it."""
    size, room = len(bitmaps) * HALF, 512 + HALF
    places = [0x8000 + number * room for number in range(len(bitmaps))]
    full = {number: (at, FULL, b"P" * HALF) for number, at in enumerate(places)}
    base = saved(folder / "base.vhd", Foreign(size=size, block_size=HALF, blocks=full))
    own = {
        number: (at, bits.ljust(512, b"\0"), b"C" * HALF)
        for number, (at, bits) in enumerate(zip(places, bitmaps, strict=True))
    }
    child = Foreign(
        size=size, block_size=HALF, blocks=own, locators=LINK, name="base.vhd",
        parent=b"0123456789abcdef",
    )  # fmt: skip
    disk = b"".join(
        (b"C" if bits[sector // 8 : sector // 8 + 1] > b"\0"
         and bits[sector // 8] & 0x80 >> sector % 8 else b"P") * 512
        for bits in bitmaps
        for sector in range(HALF // 512)
    )  # fmt: skip
    return [saved(folder / "child.vhd", child), base], disk


def test_the_bits_of_a_dynamic_vhd(tmp_path: Path) -> None:
    """We and libvhdi are right: a clear bit is a sector never written, and reads as zero.

    The specification has the bitmap for dynamic disks too. qemu and dissect give what happens to
    lie there; that is zero in images of most writers, so they get away with it.
    """
    image = Foreign(blocks={0: (0x5000, b"\xff".ljust(512, b"\0"), b"\xee" * BLOCK)})
    given = saved(tmp_path / "a.vhd", image)
    assert ours([given]) == libvhdi([given.path]) == (b"\xee" * 4096).ljust(4 * MIB, b"\0")
    garbage = (b"\xee" * BLOCK).ljust(4 * MIB, b"\0")
    assert qemu_vhd(given.path) == dissect_vhd(given.path) == garbage


def test_the_parent_of_a_differencing_vhd(tmp_path: Path) -> None:
    """We and libvhdi are right; qemu and dissect show a child as if it had no parent.

    Therefore no differencing image may ever be handed to qemu.
    """
    chain, disk = over_base(tmp_path, [b"\xff\0\xff"])
    assert ours(chain) == libvhdi([image.path for image in chain]) == disk
    assert qemu_vhd(chain[0].path) == dissect_vhd(chain[0].path) == b"C" * HALF


def test_the_size_of_a_vhd(tmp_path: Path) -> None:
    """We, libvhdi and dissect take the size field; qemu multiplies cylinders, heads and sectors.

    qemu does so for creators that it does not know to mean the field, as Virtual PC once did. The
    specification calls the field the current size of the disk.
    """
    raw = bytearray(bytes(3 * MIB) + footer(2, 3 * MIB, data_offset=2**64 - 1, creator=b"vpc "))
    raw[-512 + 56 : -512 + 60] = struct.pack(">HBB", 100, 4, 15)
    raw[-512:] = checksummed(bytes(raw[-512:]), 64)
    image = ref(tmp_path / "a.vhd")
    image.path.write_bytes(raw)
    assert util().info(image.path).virtual_size == 3 * MIB
    assert libvhdi_facts(image.path)[0] == len(dissect_vhd(image.path)) == 3 * MIB
    assert qemu_size(image) == 100 * 4 * 15 * 512 == 3072000


def test_a_vhd_that_grew(tmp_path: Path) -> None:
    """We, qemu and dissect are right; libvhdi tells the size that the disk was made with."""
    image = ref(tmp_path / "a.vhd")
    util().create(image.path, BLOCK)
    util().resize(image.path, 3 * BLOCK)
    assert util().info(image.path).virtual_size == qemu_size(image) == 3 * BLOCK
    assert len(dissect_vhd(image.path)) == 3 * BLOCK
    assert libvhdi_facts(image.path)[0] == BLOCK
    assert libvhdi_is_wrong([image])


def test_a_child_that_is_larger_than_its_parent(tmp_path: Path) -> None:
    """We are right: what the parent lacks is zero. libvhdi cannot read it at all."""
    base, child = ref(tmp_path / "base.vhd"), ref(tmp_path / "child.vhd")
    util().create(base.path, BLOCK)
    util().snapshot(child.path, base, 2 * BLOCK)
    assert ours([child, base]) == bytes(2 * BLOCK)
    with pytest.raises(OSError, match="unable to read data from parent"):
        libvhdi([child.path, base.path])
    assert libvhdi_is_wrong([child, base])


@pytest.mark.parametrize(
    "bitmaps",
    [
        pytest.param([b"\x80"], id="single-sector"),
        pytest.param([b"\xff", b"\0\xff\xff"], id="hole-across-two-blocks"),
    ],
)
def test_the_bits_of_a_differencing_vhd(tmp_path: Path, bitmaps: list[bytes]) -> None:
    """We are right: a set bit is the child's sector, a clear one the parent's.

    libvhdi takes what follows one held sector in the same byte of the bitmap for held, and data
    behind a hole that reaches over the border of two blocks for missing.
    """
    chain, disk = over_base(tmp_path, bitmaps)
    assert ours(chain) == disk
    assert libvhdi([image.path for image in chain]) != disk
    assert libvhdi_is_wrong(chain)


def test_a_guest_that_begins_its_disk_with_a_footer(tmp_path: Path) -> None:
    """libvhdi and dissect show it; qemu believes the guest's bytes; we refuse to guess.

    A fixed disk has no copy, its first sector is the guest's. But a sparse image whose end was
    lost in a crash may end in bytes of its guest that look like the footer of a fixed disk, and
    would then show all its parents' data and its own tables to that guest.
    """
    forged = footer(3, BLOCK, data_offset=512)
    disk = (forged + Foreign(size=BLOCK).header()).ljust(4 * MIB, b"g")
    image = ref(tmp_path / "a.vhd")
    image.path.write_bytes(disk + footer(2, len(disk), data_offset=2**64 - 1))
    assert libvhdi([image.path]) == dissect_vhd(image.path) == disk
    with pytest.raises(ImageCorrupt, match="fixed here, sparse at byte 0"):
        ours([image])
    info = ["qemu-img", "info", "-f", "vpc", str(image.path)]
    said = subprocess.run(info, capture_output=True, text=True, check=False)
    assert "free_data_block_offset" in said.stderr  # it looks for blocks, which a fixed disk lacks


def test_checksums_of_a_vhd(tmp_path: Path) -> None:
    """We are right to refuse: the specification has them to be checked; the others read on."""
    image = saved(tmp_path / "a.vhd", Foreign())
    raw = bytearray(image.path.read_bytes())
    raw[512 + 36] ^= 0xFF
    image.path.write_bytes(raw)
    with pytest.raises(ImageCorrupt, match="header checksum"):
        ours([image])
    assert qemu_vhd(image.path) == bytes(4 * MIB)
    assert libvhdi([image.path]) == dissect_vhd(image.path) == bytes(4 * MIB)


def qcow2(folder: Path, name: str, size: str, options: str, parent: str | None = None) -> ImageRef:
    """An image of qemu."""
    backing = ["-u", "-b", parent, "-F", parent.rpartition(".")[2]] if parent else []
    path = folder / name
    tool("qemu-img", "create", "-q", "-f", "qcow2", "-o", options, *backing, str(path), size)
    return ImageRef(path, "qcow2")


def test_a_qcow2_of_version_2(tmp_path: Path) -> None:
    """We and qemu are right; dissect takes an extension for the feature bits of version 3.

    So it looks for an external data file that is not.
    """
    base = qcow2(tmp_path, "base.qcow2", "1M", "compat=1.1")
    child = qcow2(tmp_path, "child.qcow2", "1M", "compat=0.10", "base.qcow2")
    qemu_io([child, base], "write -P 7 0 64k")
    assert ours([child, base]) == qemu_content([child, base])
    with pytest.raises(ValueError, match="Invalid name None"):
        dissect_qcow2(child.path)
    assert dissect_is_wrong([child, base])


def test_a_qcow2_with_subclusters(tmp_path: Path) -> None:
    """We and qemu are right; dissect takes the L2 entry itself for its bitmap of subclusters."""
    base = qcow2(tmp_path, "base.qcow2", "1M", "compat=1.1")
    child = qcow2(tmp_path, "child.qcow2", "1M", "compat=1.1,extended_l2=on", "base.qcow2")
    qemu_io([base], "write -P 3 0 1M")
    qemu_io([child, base], "write -P 7 10k 4k", "write -P 8 40k 2k")
    disk = qemu_content([child, base])
    assert ours([child, base]) == disk
    assert dissect_is_wrong([child, base])
    with pytest.raises(ValueError, match="invalid number of bytes"):
        dissect_qcow2(child.path)


def test_a_qcow2_that_is_larger_than_its_parent(tmp_path: Path) -> None:
    """We and qemu are right: what the parent lacks is zero. dissect leaves it out of the disk."""
    base = qcow2(tmp_path, "base.qcow2", "64k", "compat=1.1")
    child = qcow2(tmp_path, "child.qcow2", "1M", "compat=1.1", "base.qcow2")
    qemu_io([child, base], "write -P 7 960k 64k")
    assert ours([child, base]) == qemu_content([child, base]) != dissect_qcow2(child.path)
    assert dissect_is_wrong([child, base])


def test_a_raw_parent_that_looks_like_a_qcow2(tmp_path: Path) -> None:
    """We and qemu are right to go by the format that the child names; dissect looks and guesses.

    A guest that once had the raw disk could so put any file of the host into its children.
    """
    inner = qcow2(tmp_path, "inner.qcow2", "1M", "compat=1.1")
    base = ImageRef(tmp_path / "base.raw", "raw")
    base.path.write_bytes(inner.path.read_bytes().ljust(MIB, b"\0"))
    child = qcow2(tmp_path, "child.qcow2", "1M", "compat=1.1", "base.raw")
    assert ours([child, base]) == qemu_content([child, base]) == base.path.read_bytes()
    assert dissect_qcow2(child.path) == bytes(MIB)


def test_a_compressed_cluster_behind_the_end(tmp_path: Path) -> None:
    """We are right: nothing of the cluster is in the file. qemu-img's check lets it pass.

    qemu allows a stream to end up to a cluster behind the file, wherever it begins; reading it
    fails there as here.
    """
    case = next(case for case in corpus() if case.name == "qcow2-cut-stream")
    path = case.write(tmp_path)
    assert qemu_check(path) == (0, 0)
    assert Formats(run).get("qcow2").check(path).corruptions
    read = ["qemu-io", "-r", "-c", "read 12k 4k", alone(path)]
    said = subprocess.run(read, capture_output=True, text=True, check=False)
    assert "read failed" in said.stdout + said.stderr
