"""Images of other programs and in bad states: read, refused by name, or mended."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageCorrupt, ImageNotRecognised, ImageUnsafe, ImageUnsupported
from sm.cowutil.vhd.block_file import Access, open_file
from sm.cowutil.vhd.create import write_fixed
from tests.cowutil.vhd.vhd_foreign import MIB, Foreign, checksummed, footer
from tests.cowutil.vhd.vhd_support import (
    Libvhdi,
    content,
    fill,
    open_disk,
    qemu_content,
    ref,
    util,
)

FULL = b"\xff" * 512


def saved(folder: Path, image: bytes, name: str = "image.vhd") -> Path:
    path = folder / name
    path.write_bytes(image)
    return path


def windows(name: str) -> list[tuple[bytes, bytes, int, int]]:
    """Locators as Hyper-V has them: relative, and absolute with its drive."""
    return [
        (b"W2ru", f".\\{name}".encode("utf-16-le"), 0x1000, 4096),
        (b"W2ku", f"C:\\disks\\{name}".encode("utf-16-le"), 0x3000, 65536),
    ]


@pytest.mark.parametrize("block_size", [4096, 512 << 10, 1 << 20, 2 << 20])
def test_any_block_size(tmp_path: Path, block_size: int) -> None:
    data = random.Random(block_size).randbytes(block_size)
    bitmap = b"\xff" * (-(-block_size // 512 // 8 // 512) * 512)
    image = Foreign(block_size=block_size, blocks={1: (0x20000, bitmap, data)})
    path = saved(tmp_path, image.build())
    model = bytearray(4 * MIB)
    model[block_size : 2 * block_size] = data
    assert content([path]) == model == qemu_content(path)
    assert util().info(path).block_size == block_size
    assert list(util().allocated_extents(path)) == [(block_size, 2 * block_size)]
    disk = open_disk([path])
    fill(disk, model, seed=1, count=10)
    disk.close()
    assert content([path]) == model == qemu_content(path)
    assert util().check(path).clean
    util().resize(path, 40 * MIB)
    assert content([path]) == model.ljust(40 * MIB, b"\0")
    assert util().check(path).clean


def test_a_header_behind_the_blocks_tables(tmp_path: Path) -> None:
    data = random.Random(1).randbytes(2 * MIB)
    image = Foreign(header_at=0x4000, table_at=512, blocks={0: (0x5000, FULL, data)})
    path = saved(tmp_path, image.build())
    assert content([path]) == data.ljust(4 * MIB, b"\0")
    assert Libvhdi().content([path]) == data.ljust(4 * MIB, b"\0")


def test_bits_rule_in_dynamic_disks_too(tmp_path: Path) -> None:
    image = Foreign(blocks={0: (0x5000, b"\x40" + bytes(511), b"\xee" * 2 * MIB)})
    path = saved(tmp_path, image.build())
    assert content([path]) == (bytes(512) + b"\xee" * 512).ljust(4 * MIB, b"\0")
    assert list(util().allocated_extents(path)) == [(512, 1024)]


def test_a_windows_child_and_its_link(tmp_path: Path) -> None:
    util().create(tmp_path / "a parent.vhd", 4 * MIB)
    image = Foreign(
        locators=windows("a parent.vhd"), parent=b"x" * 16, name="a parent.vhd",
        table_at=0x14000, blocks={0: (0x20000, FULL, b"y" * 2 * MIB)},
    )  # fmt: skip
    path = saved(tmp_path, image.build())
    link = util().info(path).parent
    assert link is not None
    assert (link.name, link.format) == ("a parent.vhd", "vhd")
    assert util().check(path).clean
    util().set_parent(path, ref(tmp_path / "a parent.vhd"))
    assert util().check(path).clean
    assert Libvhdi().content([path, tmp_path / "a parent.vhd"]) == (b"y" * 2 * MIB).ljust(
        4 * MIB, b"\0"
    )


def test_a_new_link_where_there_is_no_free_space(tmp_path: Path) -> None:
    """The layout of vhd-util: tables at 1536, locators of one sector each, blocks right behind."""
    util().create(tmp_path / "other.vhd", 4 * MIB)
    name = "old.vhd"
    locators = [
        (b"MacX", f"file://./{name}".encode(), 3584, 512),
        (b"W2ku", f".\\{name}".encode("utf-16-le"), 4096, 512),
        (b"W2ru", f".\\{name}".encode("utf-16-le"), 4608, 512),
    ]
    batmap = (
        b"tdbatmap"
        + (2560).to_bytes(8, "big")
        + (1).to_bytes(4, "big")
        + (0x10002).to_bytes(4, "big")
    )
    batmap += b"\xff" * 4
    image = Foreign(
        table_at=1536, locators=locators, name=name, parent=b"p" * 16, padding=b"\0",
        creator=b"tap\0", version=0x10003, extra={2048: batmap, 2560: bytes(512)},
        blocks={1: (5120, FULL, b"z" * 2 * MIB)},
    )  # fmt: skip
    path = saved(tmp_path, image.build())
    assert util().check(path).clean
    longest = "n" * 251 + ".vhd"
    util().create(tmp_path / longest, 4 * MIB)
    for parent, stays in (("other.vhd", True), (longest, False), ("other.vhd", True)):
        places = []
        for change in (True, False):
            with util().open_layer(path) as layer:
                places.append(layer.map().offset.tolist())
            if change:
                util().set_parent(path, ref(tmp_path / parent))
        moved = places[0] != places[1]
        assert moved != stays
        link = util().info(path).parent
        assert link is not None
        assert link.name == parent
        assert util().check(path).clean
    expected = bytes(2 * MIB) + b"z" * 2 * MIB
    assert content([path, tmp_path / "other.vhd"]) == expected
    assert Libvhdi().content([path, tmp_path / "other.vhd"]) == expected


@pytest.mark.parametrize(
    "locators",
    [
        [(b"W2ru", "..\\secret.vhd".encode("utf-16-le"), 0x1000, 512)],
        [(b"W2ru", ".\\sub\\x.vhd".encode("utf-16-le"), 0x1000, 512)],
        [(b"W2ku", "C:\\x.vhd".encode("utf-16-le"), 0x1000, 512)],
        [(b"MacX", b"file:///dev/sda", 0x1000, 512)],
        [(b"MacX", b"/etc/shadow", 0x1000, 512)],
        [(b"W2ru", "..".encode("utf-16-le"), 0x1000, 512)],
        [(b"W2ru", "x:y".encode("utf-16-le"), 0x1000, 512)],
        [*windows("fine.vhd"), (b"MacX", b"file://./../other.vhd", 0x1800, 512)],
    ],
)
def test_a_parent_elsewhere_is_refused(
    tmp_path: Path, locators: list[tuple[bytes, bytes, int, int]]
) -> None:
    image = Foreign(locators=locators, name="x.vhd", parent=b"p" * 16, table_at=0x14000)
    path = saved(tmp_path, image.build())
    with pytest.raises(ImageUnsafe):
        util().info(path)
    assert util().check(path).corruptions


def test_names_that_contradict_each_other(tmp_path: Path) -> None:
    locators = [
        (b"MacX", b"file://./new.vhd", 0x1000, 512),
        (b"W2ru", ".\\old.vhd".encode("utf-16-le"), 0x1200, 512),
    ]
    known = Foreign(locators=locators, name="old.vhd", parent=b"p" * 16)
    link = util().info(saved(tmp_path, known.build())).parent
    assert link is not None
    assert link.name == "old.vhd"
    unknown = Foreign(locators=locators, name="third.vhd", parent=b"p" * 16)
    with pytest.raises(ImageCorrupt, match="different parents"):
        util().info(saved(tmp_path, unknown.build()))


def test_a_poisoned_image_is_refused_by_name(tmp_path: Path) -> None:
    image = Foreign().build()
    image[:8] = image[-512:-504] = b"v_poison"
    with pytest.raises(ImageUnsupported, match="v_poison"):
        util().info(saved(tmp_path, image))


def test_a_footer_of_511_bytes(tmp_path: Path) -> None:
    image = Foreign(blocks={0: (0x5000, FULL, b"q" * 2 * MIB)}).build()[:-1]
    image[:512] = bytes(512)
    path = saved(tmp_path, image)
    assert content([path]) == (b"q" * 2 * MIB).ljust(4 * MIB, b"\0")
    assert util().repair(path).clean
    assert qemu_content(path) == (b"q" * 2 * MIB).ljust(4 * MIB, b"\0")


def test_a_guest_cannot_forge_the_footer_at_the_end(tmp_path: Path) -> None:
    """After a crash the file ends in guest data; it may look like a footer of any kind."""
    genuine = Foreign(blocks={1: (0x5000, FULL, b"q" * 2 * MIB)})
    image = genuine.build()[:-512]
    image[-512:] = footer(3, 2 * MIB, data_offset=0x6000, hidden=1)
    path = saved(tmp_path, image)
    info = util().info(path)
    assert (info.virtual_size, info.hidden) == (4 * MIB, False)
    before = content([path])
    util().set_hidden(path, True)
    assert util().info(path).hidden
    assert content([path]) == before
    image[-512:] = footer(2, 2 * MIB, data_offset=2**64 - 1)
    with pytest.raises(ImageCorrupt, match="footer type"):
        util().info(saved(tmp_path, image))


def test_fixed_disks_are_read(tmp_path: Path) -> None:
    path = tmp_path / "fixed.vhd"
    file = open_file(path, Access.CREATE)
    write_fixed(file, 4 * MIB, 1e9)
    model = bytearray(random.Random(4).randbytes(4 * MIB))
    # What the guest puts at byte 0 must not be taken for metadata.
    model[:512] = footer(3, 2 * MIB, data_offset=512)[:511] + b"\1"
    file.write(0, model)
    file.close()
    assert content([path]) == model
    model[:8] = b"innocent"  # qemu looks there first, and is deceived
    with path.open("r+b") as raw:
        raw.write(model[:512])
    assert content([path]) == model == qemu_content(path) == Libvhdi().content([path])
    assert util().used_size(path) == 4 * MIB + 512
    assert util().allocated_size(path) == 4 * MIB
    assert util().check(path).clean
    util().set_hidden(path, True)
    assert util().info(path).hidden
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(path), 4 * MIB)
    disk = open_disk([child, path])
    fill(disk, model, seed=5, count=5)
    disk.close()
    util().coalesce([ref(child), ref(path)], 1)
    assert content([path]) == model == qemu_content(path)
    with pytest.raises(ImageUnsupported):
        util().resize(path, 6 * MIB)


def test_hidden_set_without_a_new_checksum_by_early_blktap(tmp_path: Path) -> None:
    image = Foreign(creator=b"tap\0", version=0x10001).build()
    image[85] = 1
    path = saved(tmp_path, image)
    assert util().info(path).hidden
    late = Foreign(creator=b"tap\0", version=0x10003).build()
    late[85] = 1
    assert not util().info(saved(tmp_path, late)).hidden  # the end footer is the valid one then


def test_batmap_is_believed_only_within_its_rules(tmp_path: Path) -> None:
    parent = tmp_path / "parent.vhd"
    util().create(parent, 4 * MIB)
    model = bytearray(4 * MIB)
    disk = open_disk([parent])
    fill(disk, model, seed=6, count=10)
    disk.close()
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(parent), 4 * MIB)
    disk = open_disk([child, parent])
    fill(disk, model, seed=7, count=2)
    disk.close()
    genuine = child.read_bytes()
    header = genuine.index(b"tdbatmap")
    at = int.from_bytes(genuine[header + 8 : header + 16], "big")
    # False bits without checksum: not believed, and noticed.
    wrong = bytearray(genuine)
    wrong[at] = 0xC0
    child.write_bytes(wrong)
    assert content([child, parent]) == model
    assert any("batmap checksum" in problem for problem in util().check(child).corruptions)
    assert util().repair(child).clean
    assert content([child, parent]) == model


def test_a_false_batmap_bit_cannot_hide_the_parent_of_a_new_block(tmp_path: Path) -> None:
    parent = tmp_path / "parent.vhd"
    util().create(parent, 4 * MIB)
    model = bytearray(4 * MIB)
    disk = open_disk([parent])
    fill(disk, model, seed=6, count=10)
    disk.close()
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(parent), 4 * MIB)
    image = bytearray(child.read_bytes())
    header = image.index(b"tdbatmap")
    image[int.from_bytes(image[header + 8 : header + 16], "big")] = 0xC0
    image[header + 24 : header + 28] = (0xFFFFFFFF - 0xC0).to_bytes(4, "big")
    child.write_bytes(image)
    assert any("not allocated" in problem for problem in util().check(child).corruptions)
    disk = open_disk([child, parent])
    fill(disk, model, seed=8, count=2)
    disk.close()
    assert content([child, parent]) == model
    assert util().check(child).clean


@pytest.mark.parametrize("blocks", [4097, 4103])
def test_sizes_whose_last_blocks_the_batmap_checksum_misses(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "odd.vhd"
    util().create(path, blocks * 2 * MIB)
    image = path.read_bytes()
    at = image.index(b"tdbatmap")
    sectors = int.from_bytes(image[at + 16 : at + 20], "big")
    assert sectors == 2
    assert len(image) == int.from_bytes(image[at + 8 : at + 16], "big") + 1024 + 512
    assert util().check(path).clean
    disk = open_disk([path])
    disk.pwrite(blocks * 2 * MIB - 512, b"e" * 512)
    disk.close()
    assert util().check(path).clean


def test_every_damage_that_repair_knows(tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    util().create(path, 4 * MIB)
    model = bytearray(4 * MIB)
    disk = open_disk([path])
    fill(disk, model, seed=9, count=4)
    disk.close()
    whole = path.read_bytes()
    null = bytearray(whole)
    null[68:84] = bytes(16)
    null[:512] = null[-512:] = checksummed(bytes(null[:512]), 64)
    no_batmap = bytearray(whole)
    at = whole.index(b"tdbatmap")
    no_batmap[at : at + 8] = bytes(8)
    for damaged in (
        whole[:-512],
        whole[:-512] + bytes(512),
        bytes(512) + whole[512:],
        null,
        no_batmap,
    ):
        path.write_bytes(damaged)
        assert not util().check(path).clean
        assert content([path]) == model
        assert util().repair(path).clean
        assert content([path]) == model == qemu_content(path)


def test_what_is_no_vhd(tmp_path: Path) -> None:
    for data in (b"", b"x", bytes(MIB), os.urandom(4096), b"QFI\xfb" + bytes(600)):
        with pytest.raises(ImageNotRecognised):
            util().info(saved(tmp_path, data))
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(ImageNotRecognised):
        util().info(tmp_path / "pipe")


def test_a_parent_must_be_beside_its_child(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    parent = tmp_path / "other" / "parent.vhd"
    util().create(parent, 4 * MIB)
    child = tmp_path / "child.vhd"
    with pytest.raises(ImageUnsafe):
        util().snapshot(child, ref(parent), 4 * MIB)
    odd = tmp_path / "back\\slash.vhd"
    util().create(odd, 4 * MIB)
    with pytest.raises(ImageUnsafe):
        util().snapshot(child, ref(odd), 4 * MIB)
    qcow2 = saved(tmp_path, b"QFI\xfb")
    with pytest.raises(ImageUnsupported):
        util().snapshot(child, ImageRef(qcow2, "qcow2"), 4 * MIB)
    assert not child.exists()
