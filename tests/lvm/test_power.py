"""Losses of power in the middle of changes: images are whole, and read as before or as after."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sm.config import load
from sm.cowutil.base import ImageRef
from sm.volumes.base import Room
from sm.volumes.lvm import making, opening
from sm.volumes.lvm.names import group_name
from sm.volumes.lvm.sizes import Allocation
from sm.volumes.lvm.store import LvmStore
from tests.support import guest
from tests.support.lvm.power import BEGIN, END, Moment, recorded
from tests.support.site import MIB
from tests.support.tiers import SOAK
from tests.volumes.contract import FORMATS, A, B, C, add, nothing

SIZE = 16 * MIB
MOST = 12 if SOAK else 4
"""Losses of power in one test."""

Mark = Callable[[str], None]


pytestmark = [pytest.mark.world, pytest.mark.one_in(2)]


@pytest.fixture(params=["qcow2", "vhd"])
def image_format(request: pytest.FixtureRequest) -> str:
    """Both formats."""
    return str(request.param)


@pytest.fixture(autouse=True)
def _needs_device_mapper(device_mapper: None) -> None:
    """As all tests here."""


def power_cuts(
    folder: Path,
    prepare: Callable[[LvmStore], None],
    work: Callable[[LvmStore, Mark], None],
    most: int = MOST,
) -> Iterator[tuple[LvmStore, Moment]]:
    """Do work on a new group; then the group as losses of power in the middle of it leave it."""
    settings, name = load(folder / "before", {}), group_name(str(uuid.uuid4()))
    with recorded(folder) as (disk, end):
        making.make_group(name, [disk.path], Allocation.THIN, settings)
        place = opening.place_of(name, [disk.path], Allocation.THIN)
        store = opening.open_store(place, FORMATS, settings)
        prepare(store)
        disk.mark(BEGIN)
        work(store, disk.mark)
        disk.mark(END)
        making.deactivate(place, settings)
        recording = end()
        for number, moment in enumerate(recording.moments(folder, most)):
            # Nothing that the host remembered is left, either.
            fresh = load(folder / f"after{number}", {})
            place = opening.place_of(name, [moment.device], Allocation.THIN)
            yield opening.open_store(place, FORMATS, fresh), moment
            making.deactivate(place, fresh)


def room_of(image_format: str) -> Room:
    """What a new image of a disk needs."""
    images = FORMATS.get(image_format)
    return Room(images.empty_size(SIZE), images.full_size(SIZE))


def image(store: LvmStore, name: str, image_format: str) -> ImageRef:
    """An image of the store, to be read or written."""
    store.prepare([(name, image_format)])
    return ImageRef(store.path(name, image_format), image_format)


def chain(store: LvmStore, name: str, image_format: str) -> list[ImageRef]:
    """An image and those that are below it by what they say themselves."""
    found = [image(store, name, image_format)]
    while parent := FORMATS.get(image_format).info(found[-1].path).parent:
        below = store.parent_uuid(parent.name)
        assert below is not None
        found.append(image(store, *below))
    return found


def readable(store: LvmStore) -> set[str]:
    """The images there are; the headers of each can be read as it is now, as by a scan."""
    images = store.listing().volumes
    for volume, path in store.headers(images):
        assert FORMATS.get(volume.format).info(path).virtual_size == SIZE
    return {volume.uuid for volume in images}


def verify(store: LvmStore, name: str, image_format: str, data: bytes) -> None:
    """What a disk reads as, for a reader of others, and that each of its images is sound."""
    images = chain(store, name, image_format)
    for each in images:
        assert FORMATS.get(image_format).check(each.path).corruptions == ()
    assert guest.content(images) == data


def write(store: LvmStore, name: str, image_format: str, data: bytearray, at: int) -> None:
    """Let a guest write 3 MiB at some MiB."""
    store.make_room(name, image_format, Room(24 * MIB, 24 * MIB), in_use=False)
    images = chain(store, name, image_format)
    guest.write(images, at * MIB, 3 * MIB, at + 1)
    data[at * MIB : (at + 3) * MIB] = bytes([at + 1]) * (3 * MIB)


def add_child(store: LvmStore, name: str, image_format: str, parent: str) -> None:
    """An image upon another one, which is hidden then."""
    below = image(store, parent, image_format)
    cow = FORMATS.cow(image_format)
    store.create(
        name,
        image_format,
        lambda path: cow.snapshot(path, below, SIZE),
        nothing,
        room_of(image_format),
    )
    cow.set_hidden(below.path, True)


def test_changes_of_size(tmp_path: Path, image_format: str) -> None:
    data = bytearray(SIZE)

    def prepare(store: LvmStore) -> None:
        add(store, A, 16, image_format)
        write(store, A, image_format, data, 2)
        FORMATS.cow(image_format).set_hidden(image(store, A, image_format).path, True)
        store.trim(A, image_format)

    def work(store: LvmStore, mark: Mark) -> None:
        store.reserve(A, image_format, 12 * MIB)
        store.trim(A, image_format)
        store.make_room(A, image_format, Room(24 * MIB, 24 * MIB), in_use=False)
        store.give_back_room(A, image_format, Room(12 * MIB, 12 * MIB))

    for store, _ in power_cuts(tmp_path, prepare, work):
        assert readable(store) == {A}
        verify_or_fit(store, image_format)
        store.remove_unfinished()
        assert store.unfinished() == ()
        verify(store, A, image_format, bytes(data))


def verify_or_fit(store: LvmStore, image_format: str) -> None:
    """Before anything is taken up, the next change of the size takes up what was begun."""
    store.reserve(A, image_format, 4 * MIB)
    assert readable(store) == {A}


def test_displace(tmp_path: Path, image_format: str) -> None:
    data = bytearray(SIZE)

    def prepare(store: LvmStore) -> None:
        add(store, A, 16, image_format)
        write(store, A, image_format, data, 2)

    def work(store: LvmStore, mark: Mark) -> None:
        below = ImageRef(store.path(B, image_format), image_format)
        cow = FORMATS.cow(image_format)
        store.displace(
            A, image_format, B, lambda path: cow.snapshot(path, below, SIZE), room_of(image_format)
        )

    for store, moment in power_cuts(tmp_path, prepare, work):
        displaced = store.displaced(A, image_format, B)
        if not displaced:
            store.undo_displace(A, image_format, B)
        store.remove_unfinished()
        assert store.unfinished() == ()
        assert readable(store) == ({A, B} if displaced else {A})
        assert displaced or not moment.at_the_end
        verify(store, A, image_format, bytes(data))


def test_supersede(tmp_path: Path, image_format: str) -> None:
    """The lower image has all that the leaf shows, and takes its name."""
    data = bytearray(SIZE)

    def prepare(store: LvmStore) -> None:
        add(store, B, 16, image_format)
        write(store, B, image_format, data, 2)
        add_child(store, A, image_format, B)
        store.trim(B, image_format)

    def work(store: LvmStore, mark: Mark) -> None:
        with store.writing(B, image_format):
            below = image(store, B, image_format)
            FORMATS.cow(image_format).set_hidden(below.path, False)
        store.supersede(A, image_format, B)

    for store, moment in power_cuts(tmp_path, prepare, work):
        switched = store.superseded(A, image_format, B)
        store.remove_unfinished()
        assert store.unfinished() == ()
        assert readable(store) == ({A} if switched else {A, B})
        assert switched or not moment.at_the_end
        verify(store, A, image_format, bytes(data))


def test_coalesce(tmp_path: Path, image_format: str) -> None:
    """What is between the leaf and the base goes into the base, and the leaf upon that."""
    data = bytearray(SIZE)
    cow = FORMATS.cow(image_format)

    def prepare(store: LvmStore) -> None:
        add(store, C, 16, image_format)
        write(store, C, image_format, data, 2)
        add_child(store, B, image_format, C)
        write(store, B, image_format, data, 4)
        add_child(store, A, image_format, B)
        write(store, A, image_format, data, 9)
        for name in (B, C):
            store.trim(name, image_format)

    def work(store: LvmStore, mark: Mark) -> None:
        leaf, upper, base = chain(store, A, image_format)
        store.reserve(C, image_format, 4 * MIB)
        with store.writing(B, image_format):
            cow.coalesce([upper, base], 1)
        mark("copied")
        cow.set_parent(leaf.path, base)
        mark("relinked")
        store.remove(B, image_format)
        store.trim(C, image_format)

    for store, moment in power_cuts(tmp_path, prepare, work):
        store.remove_unfinished()
        assert readable(store) >= {A, C}
        below = [store.parent_uuid(each.path.name) for each in chain(store, A, image_format)]
        if "relinked" in moment.marks:
            assert below == [(A, image_format), (C, image_format)]
        elif "copied" not in moment.marks:
            # The base has part of what is above it, as recovery finds it.
            cow.repair(image_for_change(store, C, image_format))
        verify(store, A, image_format, bytes(data))


def image_for_change(store: LvmStore, name: str, image_format: str) -> Path:
    """The path of an image that is about to be changed."""
    store.reserve(name, image_format, 0)
    return image(store, name, image_format).path


def test_records(tmp_path: Path) -> None:
    """Each is there as it was before or as it is now, and what was confirmed is there."""

    def prepare(store: LvmStore) -> None:
        store.write_record("kept", b"k" * 5000)
        store.write_record("changed", b"0")

    def work(store: LvmStore, mark: Mark) -> None:
        for number in range(1, 6):
            store.write_record("changed", str(number).encode() * number * 3000)
            mark(f"written-{number}")
        store.remove_record("changed")
        mark("removed")

    states = [b"0", *(str(number).encode() * number * 3000 for number in range(1, 6)), None]
    seen = set()
    for store, moment in power_cuts(tmp_path, prepare, work, most=12):
        records = store.records()
        assert records["kept"] == b"k" * 5000
        confirmed = len([mark for mark in moment.marks if mark.startswith(("written", "removed"))])
        found = states.index(records.get("changed"))
        assert found in (confirmed, confirmed + 1)
        seen.add(found)
    assert seen == set(range(len(states)))
