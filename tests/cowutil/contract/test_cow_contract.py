"""What every copy-on-write format must do."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef, ParentLink, Progress, Steps
from sm.cowutil.errors import ImageError, SizeOutOfRange
from sm.cowutil.extents import Extents
from tests.cowutil.contract.subjects import CowSubject, make_cow

pytestmark = pytest.mark.one_in(2)

SIZE = 8 << 20
MIB = 1 << 20


@pytest.fixture(params=["qcow2", "vhd", "toy"])
def subject(request: pytest.FixtureRequest) -> CowSubject:
    return make_cow(request.param)


class Disk:
    """A chain that grows by snapshots, uppermost image first, with a model of its content."""

    def __init__(self, subject: CowSubject, folder: Path, seed: int) -> None:
        self.subject = subject
        self.folder = folder
        self.random = random.Random(seed)
        self.model = bytearray(SIZE)
        first = subject.ref(folder, "0")
        subject.images.create(first.path, SIZE)
        self.chain = [first]

    def snapshot(self, size: int | None = None) -> None:
        child = self.subject.ref(self.folder, str(len(self.chain)))
        self.subject.images.snapshot(child.path, self.chain[0], size or len(self.model))
        self.model.extend(bytes(max(0, (size or 0) - len(self.model))))
        self.chain.insert(0, child)

    def write(self, offset: int, length: int, byte: int) -> None:
        self.subject.write(self.chain, offset, length, byte)
        self.model[offset : offset + length] = bytes([byte]) * length

    def scribble(self, count: int = 4) -> None:
        """Some writes that overlap those of other layers; one of them zeroes."""
        for number in range(count):
            offset = self.random.randrange(0, len(self.model) - MIB) // 512 * 512
            length = self.random.randrange(512, MIB) // 512 * 512
            self.write(offset, length, self.random.randrange(1, 256) if number else 0)

    def check(self, chain: Sequence[ImageRef] | None = None) -> None:
        assert self.subject.content(chain or self.chain) == bytes(self.model)
        for member in chain or self.chain:
            assert self.subject.images.check(member.path).clean


def merge_and_relink(disk: Disk, first: int, into: int) -> list[ImageRef]:
    """Merge `chain[first:into]` into `chain[into]`, prove it, and give the shortened chain."""
    images, chain = disk.subject.images, disk.chain
    bystanders = [*chain[:into], *chain[into + 1 :]]
    before = [disk.subject.fingerprint(image) for image in bystanders]
    target_parent = images.info(chain[into].path).parent
    held = Extents.of(())
    for member in chain[first:into]:
        held = held.union(images.allocated_extents(member.path))
    seen: list[tuple[int, int]] = []
    copied = images.coalesce(chain[first:], into - first, lambda *at: seen.append(at))
    assert 0 < copied <= held.total
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert [disk.subject.fingerprint(image) for image in bystanders] == before
    assert images.info(chain[into].path).parent == target_parent
    assert images.allocated_extents(chain[into].path).covers(held)
    disk.check()
    rest = [*chain[:first], *chain[into:]]
    if first:
        images.set_parent(chain[first - 1].path, chain[into])
        disk.check(rest)
    else:
        disk.check(rest)
    return rest


def test_a_child_reads_as_its_parent_and_leaves_it_alone(
    subject: CowSubject, tmp_path: Path
) -> None:
    disk = Disk(subject, tmp_path, seed=1)
    disk.scribble()
    before = subject.fingerprint(disk.chain[0])
    disk.snapshot()
    child, parent = disk.chain
    info = subject.images.info(child.path)
    assert info.parent is not None
    assert info.parent.name == parent.path.name
    assert info.parent.format in (None, parent.format)
    assert info.virtual_size == SIZE
    assert not info.hidden
    assert subject.images.allocated_size(child.path) == 0
    disk.check()
    disk.scribble()
    disk.check()
    assert subject.fingerprint(parent) == before


def test_two_children_do_not_see_each_other(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=2)
    disk.scribble()
    base, content = disk.chain[0], bytes(disk.model)
    sibling = subject.ref(tmp_path, "sibling")
    subject.images.snapshot(sibling.path, base, SIZE)
    disk.snapshot()
    disk.scribble()
    assert subject.content([sibling, base]) == content
    disk.check()


def test_a_child_smaller_than_its_parent_is_refused(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=3)
    child = subject.ref(tmp_path, "child")
    with pytest.raises(SizeOutOfRange):
        subject.images.snapshot(child.path, disk.chain[0], SIZE // 2)
    with pytest.raises(FileNotFoundError):
        subject.images.info(child.path)


def test_a_parent_in_another_folder_is_refused(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=4)
    (tmp_path / "elsewhere").mkdir()
    child = subject.ref(tmp_path / "elsewhere", "child")
    with pytest.raises(ImageError):
        subject.images.snapshot(child.path, disk.chain[0], SIZE)
    with pytest.raises(FileNotFoundError):
        subject.images.info(child.path)


def test_the_hidden_mark_changes_nothing_else(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=5)
    disk.scribble()
    disk.snapshot()
    disk.scribble()
    for image in disk.chain:
        plain = subject.images.info(image.path)
        for hidden in (True, True, False, False, True):
            subject.images.set_hidden(image.path, hidden)
            assert subject.images.info(image.path) == replace(plain, hidden=hidden)
            disk.check()


def test_hidden_survives_growth_and_relinking(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=6)
    disk.scribble()
    disk.snapshot()
    child, parent = disk.chain
    subject.images.set_hidden(child.path, True)
    subject.images.resize(child.path, 2 * SIZE)
    subject.images.set_parent(child.path, parent)
    info = subject.images.info(child.path)
    assert info.hidden
    assert info.virtual_size == 2 * SIZE
    disk.model.extend(bytes(SIZE))
    disk.check()


def test_relinking_to_an_equal_parent_keeps_the_content(
    subject: CowSubject, tmp_path: Path
) -> None:
    disk = Disk(subject, tmp_path, seed=7)
    disk.scribble()
    disk.snapshot()
    disk.snapshot()
    disk.scribble()
    leaf, empty, base = disk.chain
    held = subject.images.allocated_extents(leaf.path)
    subject.images.set_parent(leaf.path, base)
    link = subject.images.info(leaf.path).parent
    assert link is not None
    assert link == ParentLink(base.path.name, link.format)
    assert subject.images.allocated_extents(leaf.path) == held
    disk.check([leaf, base])
    assert subject.images.check(empty.path).clean


@pytest.mark.one_in(6)
@pytest.mark.parametrize("levels", [1, 2, 3, 4])
@pytest.mark.parametrize(("above", "below"), [(0, 0), (1, 0), (1, 2), (2, 1)])
def test_merging_keeps_the_disk(
    subject: CowSubject, tmp_path: Path, levels: int, above: int, below: int
) -> None:
    disk = Disk(subject, tmp_path, seed=levels * 10 + above * 3 + below)
    disk.scribble()
    for _ in range(levels + above + below):
        disk.snapshot()
        disk.scribble()
    merge_and_relink(disk, above, above + levels)


def test_zeroes_hide_the_data_of_the_parents_after_a_merge(
    subject: CowSubject, tmp_path: Path
) -> None:
    disk = Disk(subject, tmp_path, seed=8)
    disk.write(0, 6 * MIB, 0xAA)
    disk.snapshot()
    disk.write(MIB, MIB, 0xBB)
    disk.snapshot()
    disk.write(MIB // 2, MIB, 0)
    disk.write(4 * MIB + 512, 512, 0)
    disk.snapshot()
    merge_and_relink(disk, 1, 2)


def test_a_larger_child_grows_the_target(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=9)
    disk.scribble()
    disk.snapshot()
    disk.scribble()
    disk.snapshot(2 * SIZE)
    disk.scribble()
    disk.write(2 * SIZE - 4096, 4096, 0x77)
    disk.snapshot()
    rest = merge_and_relink(disk, 1, 2)
    assert subject.images.info(rest[1].path).virtual_size == 2 * SIZE


class Stopped(Exception):
    """Ends a merge from its progress."""


@pytest.mark.parametrize("after", [0, 1])
def test_a_merge_that_was_stopped_can_be_repeated(
    subject: CowSubject, tmp_path: Path, after: int
) -> None:
    disk = Disk(subject, tmp_path, seed=10)
    disk.scribble()
    for _ in range(3):
        disk.snapshot()
        disk.scribble()

    with pytest.raises(Stopped):
        subject.images.coalesce(disk.chain[1:], 2, _stop_after(after))
    assert subject.content(disk.chain) == bytes(disk.model)
    subject.images.repair(disk.chain[3].path)
    disk.check()
    merge_and_relink(disk, 1, 3)


def test_a_repeated_merge_is_harmless(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=11)
    for _ in range(3):
        disk.scribble()
        disk.snapshot()
    first = subject.images.coalesce(disk.chain[1:], 1)
    assert subject.images.coalesce(disk.chain[1:], 1) == first
    merge_and_relink(disk, 1, 2)


def test_a_merge_of_nothing_copies_nothing(subject: CowSubject, tmp_path: Path) -> None:
    disk = Disk(subject, tmp_path, seed=12)
    disk.scribble()
    disk.snapshot()
    disk.snapshot()
    assert subject.images.coalesce(disk.chain[1:], 1) == 0
    disk.check()


@pytest.mark.parametrize(("first", "count"), [(0, 1), (0, 3), (1, 1), (1, 2)])
def test_pulled_up(subject: CowSubject, tmp_path: Path, first: int, count: int) -> None:
    """The images below may go, down to the base or not, and nothing else was written."""
    disk = _deep(subject, tmp_path, seed=17)
    images, chain = subject.images, disk.chain[first:]
    upper, below = chain[0], [*chain[count + 1 :], None][0]
    bystanders = [image for image in disk.chain if image != upper]
    before = [subject.fingerprint(image) for image in bystanders]
    own = images.allocated_extents(upper.path)
    shown = own
    for member in chain[1 : count + 1]:
        shown = shown.union(images.allocated_extents(member.path))
    seen: list[tuple[int, int]] = []
    copied = images.pull(chain, count, lambda *at: seen.append(at))
    assert 0 < copied <= shown.minus(own).total
    assert seen[-1][0] == seen[-1][1]
    assert [subject.fingerprint(image) for image in bystanders] == before
    disk.check()
    images.set_parent(upper.path, below)
    rest = [*disk.chain[:first], upper, *chain[count + 1 :]]
    link = images.info(upper.path).parent
    assert (None if link is None else link.name) == (None if below is None else below.path.name)
    disk.check(rest)


@pytest.mark.parametrize("after", [0, 1])
@pytest.mark.parametrize("give_back", [False, True])
def test_a_copy_upwards_stopped_anywhere_leaves_the_disk(
    subject: CowSubject, tmp_path: Path, after: int, give_back: bool
) -> None:
    disk = _deep(subject, tmp_path, seed=18)
    steps = Steps(give_back=give_back)
    with pytest.raises(Stopped):
        subject.images.pull(disk.chain, 2, _stop_after(after), steps)
    assert subject.content(disk.chain) == bytes(disk.model)
    subject.images.repair(disk.chain[0].path)
    subject.images.pull(disk.chain, 2, steps=steps)
    subject.images.set_parent(disk.chain[0].path, disk.chain[3])
    disk.check([disk.chain[0], disk.chain[3]])


def test_a_merge_gives_back_what_it_copied(subject: CowSubject, tmp_path: Path) -> None:
    """Afterwards the merged images may be there or not: the disk reads the same."""
    disk = _deep(subject, tmp_path, seed=19)
    subject.images.coalesce(disk.chain[1:], 2, steps=Steps(give_back=True))
    assert subject.content(disk.chain) == bytes(disk.model)
    for member in disk.chain[1:3]:
        assert not subject.images.check(member.path).corruptions
    subject.images.set_parent(disk.chain[0].path, disk.chain[3])
    disk.check([disk.chain[0], disk.chain[3]])


@pytest.mark.parametrize("give_back", [False, True])
@pytest.mark.parametrize("upwards", [False, True])
@pytest.mark.parametrize("name", ["qcow2", "vhd"])
def test_a_stopped_copy_goes_on_from_the_last_step(
    name: str, upwards: bool, give_back: bool, tmp_path: Path
) -> None:
    """Stopped after every piece in turn, it copies less each time and ends with the right disk."""
    subject = make_cow(name)
    disk = Disk(subject, tmp_path, seed=20)
    for level in range(4):
        if level:
            disk.snapshot()
        for piece in range(4):
            disk.write(2 * MIB * piece + 192 * 1024 * level, 256 * 1024, 10 * level + piece + 1)
    reached = [0]
    begin, copied = 0, 0
    for after in (1, 2, 2, 9):
        begin = reached[-1]
        steps = Steps(begin, reached.append, give_back, length=1)
        try:
            if upwards:
                copied = subject.images.pull(disk.chain, 3, _stop_after(after), steps)
            else:
                copied = subject.images.coalesce(disk.chain, 3, _stop_after(after), steps)
        except Stopped:
            assert subject.content(disk.chain) == bytes(disk.model)
            for member in disk.chain:
                assert not subject.images.check(member.path).corruptions
    assert reached == sorted(reached)
    assert reached[-1] == SIZE
    assert begin > 0
    assert copied <= SIZE - begin
    if upwards:
        subject.images.set_parent(disk.chain[0].path, None)
        disk.check(disk.chain[:1])
    else:
        disk.check(disk.chain[3:])


def _deep(subject: CowSubject, folder: Path, seed: int) -> Disk:
    """A chain of four, each with data of its own."""
    disk = Disk(subject, folder, seed=seed)
    for _ in range(3):
        disk.scribble()
        disk.snapshot()
    disk.scribble()
    return disk


def _stop_after(count: int) -> Progress:
    calls = 0

    def stop(done: int, total: int) -> None:
        del done, total
        nonlocal calls
        calls += 1
        if calls > count:
            raise Stopped

    return stop


@pytest.mark.parametrize("hidden", [False, True])
def test_reading_a_child_changes_nothing(subject: CowSubject, tmp_path: Path, hidden: bool) -> None:
    disk = Disk(subject, tmp_path, seed=13)
    disk.scribble()
    disk.snapshot()
    disk.scribble()
    if hidden:
        subject.images.set_hidden(disk.chain[0].path, True)
    before = []
    for image in disk.chain:
        subject.freeze(image)
        before.append(subject.fingerprint(image))
    for image in disk.chain:
        subject.images.info(image.path)
        subject.images.allocated_size(image.path)
        subject.images.check(image.path)
        with subject.images.open_layer(image.path) as layer:
            layer.map()
    assert [subject.fingerprint(image) for image in disk.chain] == before
