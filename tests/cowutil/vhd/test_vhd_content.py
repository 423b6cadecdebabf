"""What the guest sees, against a model in memory, qemu and libvhdi."""

from __future__ import annotations

import random
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sm.cowutil.base import ImageRef, Steps
from sm.cowutil.extents import Extents
from sm.cowutil.raw import RawFormat
from sm.cowutil.vhd.block_file import Access, open_file
from sm.cowutil.vhd.check import examine
from sm.cowutil.vhd.create import write_dynamic
from sm.cowutil.vhd.disk import VhdDisk
from sm.cowutil.vhd.growth import grow
from sm.cowutil.vhd.headers import load_headers
from sm.cowutil.vhd.layer import VhdLayer
from sm.cowutil.vhd.writer import ImageWriter
from sm.process import run
from tests.cowutil.vhd.vhd_support import (
    MIB,
    Libvhdi,
    MemoryFile,
    content,
    fill,
    memory_content,
    open_disk,
    qemu_content,
    ref,
    util,
)


def grown_chain(folder: Path, depth: int, unit: int = 512) -> tuple[list[Path], bytearray]:
    """A chain with random writes at every level, leaf first, and the model of its disk."""
    size = 10 * MIB
    model = bytearray(size)
    chain: list[Path] = []
    for level in range(depth):
        path = folder / f"level {level}.vhd"
        if chain:
            util().snapshot(path, ref(chain[0]), size)
        else:
            util().create(path, size)
        chain.insert(0, path)
        disk = open_disk(chain)
        fill(disk, model, seed=level, count=12, unit=unit)
        disk.close()
    return chain, model


def test_a_dynamic_disk_reads_the_same_everywhere(tmp_path: Path) -> None:
    chain, model = grown_chain(tmp_path, 1)
    assert content(chain) == model
    assert qemu_content(chain[0]) == model
    assert Libvhdi().content(chain) == model
    assert util().check(chain[0]).clean


def test_a_chain_reads_the_same_in_libvhdi(tmp_path: Path) -> None:
    # libvhdi tests the bits of a byte wrongly, so only whole bytes of bits can be compared.
    chain, model = grown_chain(tmp_path, 3, unit=4096)
    assert content(chain) == model
    reader = Libvhdi()
    assert reader.content(chain) == model
    for child, parent in pairwise(chain):
        assert reader.parent_identifier(child) == reader.identifier(parent)


def test_vhdiinfo_agrees_on_the_link(tmp_path: Path) -> None:
    chain, _ = grown_chain(tmp_path, 2)
    said = subprocess.run(["vhdiinfo", chain[0]], capture_output=True, text=True, check=True).stdout
    assert "Differential" in said
    assert chain[1].name in said


@pytest.mark.parametrize("into", [1, 2, 3])
def test_coalesce_keeps_the_disk(tmp_path: Path, into: int) -> None:
    chain, model = grown_chain(tmp_path, 4)
    held = Extents.of(())
    for path in chain[:into]:
        held = held.union(util().allocated_extents(path))
    copied = util().coalesce([ref(path) for path in chain], into)
    assert copied == held.total
    assert content(chain) == model
    assert util().check(chain[into]).clean
    # The merged images are not needed any more.
    assert content(chain[into:]) == model
    if into == 3:
        assert qemu_content(chain[3]) == model
        assert Libvhdi().content(chain[3:]) == model


def test_coalesce_into_a_raw_parent_grows_it(tmp_path: Path) -> None:
    raw = tmp_path / "base.raw"
    model = bytearray(random.Random(3).randbytes(3 * MIB))
    raw.write_bytes(model)
    base = ImageRef(raw, "raw")
    leaf = tmp_path / "leaf.vhd"
    util().snapshot(leaf, base, 5 * MIB)
    link = util().info(leaf).parent
    assert link is not None
    assert (link.name, link.format) == ("base.raw", "raw")
    model.extend(bytes(6 * MIB - len(model)))
    assert util().info(leaf).virtual_size == 6 * MIB

    disk = VhdDisk(open_file(leaf, Access.WRITE), [RawFormat(run).open_layer(raw)])
    fill(disk, model, seed=4, count=9)
    assert disk.pread(0, len(model)) == model
    disk.close()
    util().coalesce([ref(leaf), base], 1)
    assert raw.read_bytes() == model


def test_coalesce_repeats_and_reports(tmp_path: Path) -> None:
    chain, model = grown_chain(tmp_path, 3)
    seen: list[tuple[int, int]] = []
    first = util().coalesce(
        [ref(p) for p in chain], 2, lambda done, total: seen.append((done, total))
    )
    assert first == util().coalesce([ref(p) for p in chain], 2)
    assert content(chain) == model
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]


@pytest.mark.parametrize("size", [10 * MIB, 258 * MIB, 3 << 30])
def test_growth_shows_zeroes(tmp_path: Path, size: int) -> None:
    chain, model = grown_chain(tmp_path, 1)
    util().resize(chain[0], size)
    util().resize(chain[0], size + 4 * MIB)
    disk = open_disk(chain)
    disk.pwrite(size + 4 * MIB - 700, b"end" * 200)
    assert not any(disk.pread(len(model), MIB))
    disk.close()
    assert util().check(chain[0]).clean
    out = tmp_path / "raw"
    subprocess.run(["qemu-img", "convert", "-f", "vpc", "-O", "raw", chain[0], out], check=True)
    assert out.stat().st_size == size + 4 * MIB
    with out.open("rb") as file:
        assert file.read(len(model)) == model
        file.seek(-700, 2)
        assert file.read() == (b"end" * 200).ljust(700, b"\0")


def test_growth_keeps_the_link_and_the_parent(tmp_path: Path) -> None:
    chain, model = grown_chain(tmp_path, 2)
    util().resize(chain[0], 300 * MIB)
    link = util().info(chain[0]).parent
    assert link is not None
    assert link.name == chain[1].name
    assert content(chain)[: len(model)] == model
    assert util().check(chain[0]).clean


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["write", "zero", "flush", "reopen", "read"]),
        st.integers(0, 4 * MIB - 1),
        st.integers(1, 9000),
    ),
    max_size=25,
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(steps=STEPS, volume=st.booleans())
def test_a_disk_behaves_like_its_model(
    tmp_path: Path, steps: list[tuple[str, int, int]], volume: bool
) -> None:
    files = {name: tmp_path / name for name in ("parent", "leaf")}
    for path in files.values():
        path.unlink(missing_ok=True)
    util().create(files["parent"], 4 * MIB)
    model = bytearray(4 * MIB)
    disk = open_disk([files["parent"]])
    fill(disk, model, seed=5, count=4)
    disk.close()
    util().snapshot(files["leaf"], ref(files["parent"]), 4 * MIB)
    leaf = bytearray(files["leaf"].read_bytes())
    parent = MemoryFile(bytearray(files["parent"].read_bytes()))
    if volume:
        # A volume: old rubbish behind the metadata, a fixed length, the footer at the end.
        footer = bytes(leaf[-512:])
        leaf = leaf[:-512] + random.Random(6).randbytes(6 * MIB) + footer

    def opened() -> VhdDisk:

        return VhdDisk(MemoryFile(leaf, resizable=not volume), [VhdLayer(parent)])

    disk = opened()
    for what, offset, wanted in steps:
        length = min(wanted, 4 * MIB - offset)
        if what == "write":
            data = random.Random(offset).randbytes(length)
            disk.pwrite(offset, data)
            model[offset : offset + length] = data
        elif what == "zero":
            disk.write_zeroes(offset, length)
            model[offset : offset + length] = bytes(length)
        elif what == "flush":
            disk.flush()
        elif what == "read":
            assert disk.pread(offset, length) == model[offset : offset + length]
        else:
            disk.close()
            disk = opened()
    assert disk.pread(0, 4 * MIB) == model
    disk.close()
    assert memory_content(MemoryFile(leaf), parent) == model

    assert examine(MemoryFile(leaf, resizable=not volume), 2e9).clean


def test_unwritten_parts_of_blocks_are_zero_for_readers_that_ignore_bitmaps(tmp_path: Path) -> None:
    image = tmp_path / "volume"
    image.write_bytes(random.Random(7).randbytes(9 * MIB))

    data = bytearray(image.read_bytes())
    write_dynamic(MemoryFile(data, resizable=False), 4 * MIB, 1e9)
    disk = VhdDisk(MemoryFile(data, resizable=False))
    disk.pwrite(MIB, b"x" * 1000)
    disk.close()
    image.write_bytes(data)
    expected = bytearray(4 * MIB)
    expected[MIB : MIB + 1000] = b"x" * 1000
    assert qemu_content(image) == expected


def test_a_volume_that_is_full_says_so_and_keeps_the_disk(tmp_path: Path) -> None:

    data = bytearray(7 * MIB)
    write_dynamic(MemoryFile(data, resizable=False), 8 * MIB, 1e9)
    disk = VhdDisk(MemoryFile(data, resizable=False))
    disk.pwrite(0, b"first")
    with pytest.raises(OSError, match="No space left"):
        disk.pwrite(2 * MIB, b"second")
    disk.close()
    assert memory_content(MemoryFile(data)) == b"first".ljust(8 * MIB, b"\0")
    assert load_headers(MemoryFile(data)).end_footer is not None


def test_full_size_is_enough_for_a_disk_that_has_grown() -> None:

    final = 22 * MIB
    data = bytearray(util().full_size(final))
    file = MemoryFile(data, resizable=False)
    write_dynamic(file, 2 * MIB, 1e9)
    for size in range(2 * MIB, final + 1, 4 * MIB):
        grow(ImageWriter(file), size)
        writer = ImageWriter(file)
        writer.write(0, memoryview(b"\xaa" * size))
        writer.commit()
    assert memory_content(file) == b"\xaa" * final


def test_a_fixed_base_goes_up(tmp_path: Path) -> None:
    """It holds all of the disk, so all that its child lacks is copied."""
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    raw = tmp_path / "raw"
    raw.write_bytes(random.Random(5).randbytes(8 * MIB))
    argv = ["qemu-img", "convert", "-f", "raw", "-O", "vpc"]
    argv += ["-o", "subformat=fixed,force_size", str(raw), str(base)]
    subprocess.run(argv, check=True)
    util().snapshot(child, ref(base), 8 * MIB)
    model = bytearray(raw.read_bytes())
    disk = open_disk([child, base])
    fill(disk, model, seed=3, count=4)
    disk.close()
    copied = util().pull([ref(child), ref(base)], 1, steps=Steps(give_back=True))
    assert 0 < copied < 8 * MIB
    util().set_parent(child, None)
    base.unlink()
    assert qemu_content(child) == bytes(model)
    assert util().check(child).clean


def test_repair_blanks_what_is_not_held(tmp_path: Path) -> None:
    """Data that a killed writer left without its bits: qemu looks at no bits, and would show it."""
    path = tmp_path / "base.vhd"
    util().create(path, 8 * MIB)
    file = open_file(path, Access.WRITE)
    writer = ImageWriter(file)
    writer.write(2 * MIB, memoryview(b"\x05" * 8192))
    writer.write(3 * MIB, memoryview(b"\x06" * 8192))
    writer.commit()
    bitmap = bytearray(512)
    bitmap[0] = 0xFF  # the first 4096 bytes are held, and no other
    file.write(int(writer.tables.bat[1]) * 512, bitmap)
    file.close()
    model = bytearray(8 * MIB)
    model[2 * MIB : 2 * MIB + 4096] = b"\x05" * 4096
    assert content([path]) == bytes(model)
    assert qemu_content(path) != bytes(model)
    assert util().repair(path).clean
    assert content([path]) == bytes(model)
    assert qemu_content(path) == bytes(model)
