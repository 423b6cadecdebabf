"""What a power cut at any write leaves: the guest's disk whole, the metadata clean or leaking."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.base import CheckReport
from sm.cowutil.errors import ImageCorrupt, ImageNotRecognised
from sm.cowutil.vhd.check import examine
from sm.cowutil.vhd.headers import load_headers
from tests.cowutil.vhd.vhd_foreign import Foreign
from tests.cowutil.vhd.vhd_power import Cut, Recorder
from tests.cowutil.vhd.vhd_support import (
    MIB,
    MemoryFile,
    content,
    fill,
    memory_content,
    open_disk,
    qemu_content,
    ref,
    util,
)

pytestmark = pytest.mark.usefixtures("memory_given_back")

NOW = 2_000_000_000.0


def check(cut: Cut) -> CheckReport:
    report = examine(MemoryFile(cut.content), NOW)
    assert not report.corruptions, report.corruptions
    return report


def usable_after(cut: Cut) -> None:
    """After repair nothing is left to complain about but lost space."""
    recorder = Recorder({Path("image"): bytearray(cut.content)})
    report = util(recorder.open).repair(Path("image"))
    assert not report.corruptions
    assert all("unused" in leak for leak in report.leaks), report.leaks


def assert_footers_apart(recorder: Recorder, end: int) -> None:
    """A cut may spoil a sector that is being written, so one footer must be at rest."""
    together = [{0, end} <= offsets for offsets in recorder.writes_between_flushes()]
    assert not any(together)
    assert any(0 in offsets for offsets in recorder.writes_between_flushes())


def base(folder: Path, size: int = 8 * MIB, writes: int = 6) -> tuple[Path, bytearray]:
    """A dynamic disk with some blocks, and its model."""
    path = folder / "base.vhd"
    util().create(path, size)
    model = bytearray(size)
    disk = open_disk([path])
    fill(disk, model, seed=1, count=writes)
    disk.close()
    return path, model


@pytest.mark.one_in(3)
@pytest.mark.parametrize("seed", range(3))
def test_guest_writes(tmp_path: Path, seed: int) -> None:
    path, model = base(tmp_path, writes=3)
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(path), 8 * MIB)
    recorder = Recorder()
    recorder.load(path, child)
    before = recorder.watch(child)
    dice = random.Random(seed)
    versions = [bytes(model)]
    disk = open_disk([child, path], recorder.open)
    for _ in range(14):
        if dice.random() < 0.3:
            disk.flush()
            recorder.mark("durable", len(versions) - 1)
            continue
        length = dice.choice((100, 512, 4096, 70000))
        offset = dice.randrange(8 * MIB - length)
        data = dice.randbytes(length)
        model[offset : offset + length] = data
        versions.append(bytes(model))
        recorder.mark("started", len(versions) - 1)
        if dice.random() < 0.2:
            model[offset : offset + length] = bytes(length)
            versions[-1] = bytes(model)
            disk.write_zeroes(offset, length)
        else:
            disk.pwrite(offset, data)
    disk.close()
    recorder.mark("durable", len(versions) - 1)
    states = 0
    sectors = [np.frombuffer(version, dtype="V512") for version in versions]
    for cut in recorder.cuts(before, seed):
        check(cut)
        seen = memory_content(MemoryFile(cut.content), MemoryFile(recorder.files[path]))
        found = np.frombuffer(seen, dtype="V512")
        allowed = np.zeros(len(found), dtype=bool)
        for version in sectors[cut.durable : cut.started + 1]:
            allowed |= found == version
        assert allowed.all(), f"sector {np.flatnonzero(~allowed)[0]} is neither old nor new"
        states += 1
        if states % 20 == 0:
            usable_after(cut)
    assert states > 50
    assert seen == versions[-1]


@pytest.mark.one_in(2)
@pytest.mark.parametrize("maker", ["ours", "another"])
def test_resize_within_and_beyond_the_table(tmp_path: Path, maker: str) -> None:
    path, model = base(tmp_path)
    if maker == "another":
        # No hole in front of the blocks: they must move.
        blocks = {
            number: (
                0x4000 + place * 0x201000 - 512,
                b"\xff" * 512,
                bytes(model[at : at + 2 * MIB]),
            )
            for place, number in enumerate((3, 0, 2))
            for at in [number * 2 * MIB]
        }
        model[2 * MIB : 4 * MIB] = bytes(2 * MIB)
        path.write_bytes(Foreign(size=8 * MIB, blocks=blocks).build())
    assert content([path]) == model == qemu_content(path)
    for size in (10 * MIB, 64 * MIB):
        recorder = Recorder()
        recorder.load(path)
        before = recorder.watch(path)
        util(recorder.open).resize(path, size)
        assert_footers_apart(recorder, len(recorder.files[path]) - 512)
        sizes = set()
        for number, cut in enumerate(recorder.cuts(before, seed=size, losses=1)):
            check(cut)
            seen = memory_content(MemoryFile(cut.content))
            sizes.add(len(seen))
            assert seen == bytes(model).ljust(len(seen), b"\0")
            if number % 10 == 0:
                usable_after(cut)
        assert sizes == {len(model), size}
        path.write_bytes(recorder.files[path])
        model.extend(bytes(size - len(model)))
    assert content([path]) == model == qemu_content(path)


def packed_child(parent: str, uuid: bytes) -> bytes:
    """A child whose locators fill the space in front of its table: no room for new ones."""
    windows = f".\\{parent}".encode("utf-16-le")
    locators = [
        (b"MacX", f"file://./{parent}".encode(), 2560, 512),
        (b"W2ku", windows, 3072, 512),
        (b"W2ru", windows, 3584, 512),
    ]
    image = Foreign(size=8 * MIB, locators=locators, name=parent, parent=uuid, table_at=4096)
    return bytes(image.build())


def relink_under_cuts(
    recorder: Recorder, child: Path, parents: tuple[Path, ...], uuids: dict[str, bytes]
) -> None:
    """After each cut the link is the old or the new one, as a whole."""
    vhd = util(recorder.open)
    for parent in parents:
        before = recorder.watch(child)
        vhd.set_parent(child, ref(parent))
        names = set()
        for cut in recorder.cuts(before, seed=5, losses=12):
            check(cut)
            alone = util(Recorder({child: cut.content}).open)
            link = alone.info(child).parent
            assert link is not None
            assert load_headers(MemoryFile(cut.content)).header.parent_id == uuids[link.name]
            names.add(link.name)
            usable_after(cut)
        assert names == {known.name for known in parents}


def test_link_and_hidden_mark(tmp_path: Path) -> None:
    path, _ = base(tmp_path)
    other = tmp_path / "the other parent.vhd"
    util().create(other, 8 * MIB)
    child = tmp_path / "child.vhd"
    util().snapshot(child, ref(path), 8 * MIB)
    recorder = Recorder()
    recorder.load(path, other, child)
    vhd = util(recorder.open)
    uuids = {
        p.name: load_headers(MemoryFile(recorder.files[p])).footer.unique_id for p in (path, other)
    }
    packed = tmp_path / "packed.vhd"
    packed.write_bytes(packed_child(path.name, uuids[path.name]))
    recorder.load(packed)
    for image in (child, packed):
        relink_under_cuts(recorder, image, (other, path, other), uuids)
    for hidden in (True, False):
        before = recorder.watch(child)
        vhd.set_hidden(child, hidden)
        assert_footers_apart(recorder, len(recorder.files[child]) - 512)
        marks = set()
        for cut in recorder.cuts(before, seed=6, losses=4):
            check(cut)
            marks.add(util(Recorder({child: cut.content}).open).info(child).hidden)
        assert marks == {True, False}
        assert vhd.check(child).clean


def test_create_is_whole_or_nothing(tmp_path: Path) -> None:
    parent, _ = base(tmp_path)
    recorder = Recorder()
    recorder.load(parent)
    for volume in (False, True):
        path = tmp_path / f"new-{volume}.vhd"
        recorder.resizable = not volume
        stale = bytearray(random.Random(1).randbytes(6 * MIB))
        stale[:512] = stale[-512:] = recorder.files[parent][:512]
        recorder.files[path] = stale if volume else bytearray()
        before = recorder.watch(path)
        util(recorder.open).snapshot(path, ref(parent), 8 * MIB)
        outcomes = set()
        for cut in recorder.cuts(before, seed=7, losses=8):
            try:
                load_headers(MemoryFile(cut.content, resizable=not volume))
            except (ImageNotRecognised, ImageCorrupt):
                outcomes.add("refused")
                continue
            report = examine(MemoryFile(cut.content, resizable=not volume), NOW)
            assert not report.corruptions
            outcomes.add("whole")
        assert outcomes == {"refused", "whole"}


def test_coalesce_over_two_levels(tmp_path: Path) -> None:
    path, model = base(tmp_path)
    middle, leaf = tmp_path / "middle.vhd", tmp_path / "leaf.vhd"
    chain = [path]
    for number, (child, size) in enumerate(((middle, 8 * MIB), (leaf, 12 * MIB))):
        util().snapshot(child, ref(chain[0]), size)
        chain.insert(0, child)
        model.extend(bytes(size - len(model)))
        disk = open_disk(chain)
        fill(disk, model, seed=number + 10, count=8)
        disk.close()
    recorder = Recorder()
    recorder.load(*chain)
    before = recorder.watch(path)
    util(recorder.open).coalesce([ref(member) for member in chain], 2)
    above = [MemoryFile(recorder.files[member]) for member in (leaf, middle)]
    for number, cut in enumerate(recorder.cuts(before, seed=8, losses=1)):
        check(cut)
        assert memory_content(*above, MemoryFile(cut.content)) == model
        if number % 20 == 0:
            usable_after(cut)
            again = Recorder({**recorder.files, path: bytearray(cut.content)})
            util(again.open).coalesce([ref(member) for member in chain], 2)
            assert content([path], again.open) == model
    path.write_bytes(recorder.files[path])
    assert qemu_content(path) == model


def test_repair_may_be_cut_too(tmp_path: Path) -> None:
    path, model = base(tmp_path)
    whole = path.read_bytes()
    for damage in ("end", "copy", "leak"):
        broken = bytearray(whole)
        if damage == "end":
            broken[-512:] = bytes(512)
        elif damage == "copy":
            broken[:512] = bytes(512)
        else:
            broken[-512:] = random.Random(2).randbytes(MIB)
        recorder = Recorder({path: broken})
        before = recorder.watch(path)
        assert not util(recorder.open).check(path).clean
        assert util(recorder.open).repair(path).clean
        for cut in recorder.cuts(before, seed=9, losses=6):
            check(cut)
            assert memory_content(MemoryFile(cut.content)) == model
