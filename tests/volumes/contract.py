"""What every volume store must do; a test file of a store inherits it and says what `store` is.

Volumes are real images here, told apart by the sizes of their disks, because a store may look at
what it keeps.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sm import process
from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.errors import VdiExists, VdiMissing
from sm.pool.times import NO_TIME
from sm.volumes.base import Room, VolumeStore
from sm.volumes.described import Catalogue, Described
from tests.support.site import MIB

A, B, C = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
FORMATS = Formats(process.run)


def making(size: int, image_format: str = "qcow2") -> Callable[[Path], None]:
    """Writes an empty image of a disk of so many MiB."""
    return lambda path: FORMATS.get(image_format).create(path, size * MIB)


def room(size: int, image_format: str = "qcow2") -> Room:
    """What an empty image needs that will be written to."""
    image = FORMATS.get(image_format)
    return Room(image.empty_size(size * MIB), image.full_size(size * MIB))


def nothing(used: int) -> None:
    """Do nothing before the name appears."""


def add(store: VolumeStore, name: str, size: int, image_format: str = "qcow2") -> None:
    """A volume with an empty image."""
    made = making(size, image_format)
    store.create(name, image_format, made, nothing, room(size, image_format))


def size_of(store: VolumeStore, name: str, image_format: str = "qcow2") -> int:
    """The disk of the image of that name, in MiB: which one it is."""
    store.prepare([(name, image_format)])
    return FORMATS.get(image_format).info(store.path(name, image_format)).virtual_size // MIB


class VolumeStoreContract:
    """The tests; `store` is an empty one."""

    alone = False
    """Whether nobody else uses the space of the store, so that what is left can be foretold."""

    def test_create_lists_and_removes(self, store: VolumeStore) -> None:
        costs: list[int] = []
        assert not store.exists(A, "qcow2")
        store.create(A, "qcow2", making(64), costs.append, room(64))
        made = store.volume(A, "qcow2")
        assert (made.uuid, made.format, made.used) == (A, "qcow2", costs[0])
        assert store.listing().volumes == (made,)
        assert store.exists(A, "qcow2")
        assert size_of(store, A) == 64
        store.remove(A, "qcow2")
        store.remove(A, "qcow2")
        assert store.listing().volumes == ()
        assert not store.exists(A, "qcow2")
        with pytest.raises(VdiMissing):
            store.volume(A, "qcow2")

    def test_create_never_replaces(self, store: VolumeStore) -> None:
        add(store, A, 64)
        with pytest.raises(VdiExists):
            add(store, A, 32)
        assert size_of(store, A) == 64

    @pytest.mark.parametrize("fails", ["make", "before"])
    def test_failed_creation_leaves_nothing(self, store: VolumeStore, fails: str) -> None:
        free = store.space().free

        def make(path: Path) -> None:
            making(64)(path)
            if fails == "make":
                raise OSError("full")

        def before(used: int) -> None:
            raise OSError("refused")

        with pytest.raises(OSError, match=r"full|refused"):
            store.create(A, "qcow2", make, before, room(64))
        assert store.listing().volumes == ()
        assert store.unfinished() == ()
        assert store.space().free == free or not self.alone

    def test_displace(self, store: VolumeStore) -> None:
        add(store, A, 64)
        assert not store.displaced(A, "qcow2", B)
        store.displace(A, "qcow2", B, making(32), room(32))
        assert store.displaced(A, "qcow2", B)
        assert (size_of(store, A), size_of(store, B)) == (32, 64)
        store.undo_displace(A, "qcow2", B)
        assert (size_of(store, A), size_of(store, B)) == (32, 64)

    def test_a_displacement_that_failed_is_undone(self, store: VolumeStore) -> None:
        add(store, A, 64)

        def fail(path: Path) -> None:
            raise OSError("full")

        with pytest.raises(OSError, match="full"):
            store.displace(A, "qcow2", B, fail, room(64))
        assert not store.displaced(A, "qcow2", B)
        store.undo_displace(A, "qcow2", B)
        store.undo_displace(A, "qcow2", B)
        store.remove_unfinished()
        assert [volume.uuid for volume in store.listing().volumes] == [A]
        assert size_of(store, A) == 64

    def test_supersede(self, store: VolumeStore) -> None:
        add(store, A, 64)
        add(store, B, 32)
        before = store.fingerprint(A, "qcow2")
        assert not store.superseded(A, "qcow2", B)
        store.supersede(A, "qcow2", B)
        assert store.superseded(A, "qcow2", B)
        assert size_of(store, A) == 32
        assert not store.exists(B, "qcow2")
        assert store.unfinished() == ()
        assert store.fingerprint(A, "qcow2") != before

    def test_fingerprint_changes_with_a_write(self, store: VolumeStore) -> None:
        add(store, A, 64)
        before = store.fingerprint(A, "qcow2")
        assert store.fingerprint(A, "qcow2") == before
        FORMATS.cow("qcow2").set_hidden(store.path(A, "qcow2"), True)
        assert store.fingerprint(A, "qcow2") != before

    def test_change_mark_changes_with_names(self, store: VolumeStore) -> None:
        seen = {store.change_mark()}
        add(store, A, 64)
        seen.add(store.change_mark())
        store.remove(A, "qcow2")
        seen.add(store.change_mark())
        assert len(seen) == 3

    def test_records(self, store: VolumeStore) -> None:
        present = store.records()
        store.remove_record("journal-a")
        store.write_record("journal-a", b"1")
        store.write_record("journal-a", b"2")
        assert store.records() == {**present, "journal-a": b"2"}
        store.write_record("journal-b", bytes(range(256)) * 64)
        assert store.records()["journal-b"] == bytes(range(256)) * 64
        store.remove_record("journal-a")
        store.remove_record("journal-b")
        assert store.records() == present

    def test_descriptions(self, store: VolumeStore) -> None:
        """What is described is told, with all that is said of a disk; what is to be kept, stays."""
        web = Described(
            A, "web & <co>", "größer", "user", False, "", NO_TIME, False, True, "", "vhd"
        )
        before = replace(web, uuid=B, is_a_snapshot=True, snapshot_of=A, read_only=True)
        base = replace(web, uuid=C, name_label="base copy", managed=False, type="metadata")
        disks = {disk.uuid: disk for disk in (web, before, base)}
        catalogue = Catalogue("nas", "in the cellar", disks)
        assert not store.is_described(catalogue, lambda _: False)
        store.describe(catalogue, lambda _: False)
        assert store.is_described(catalogue, lambda _: False)
        assert store.descriptions() == catalogue
        fewer = replace(catalogue, disks={A: replace(web, name_label="w" * 2000)})
        store.describe(fewer, lambda uuid_: uuid_ == C)
        assert store.is_described(fewer, lambda uuid_: uuid_ == C)
        assert not store.is_described(fewer, lambda _: False)
        found = store.descriptions().disks
        assert set(found) == {A, C}
        assert found[C] == base
        assert found[A].name_label.startswith("w" * 200)
        assert not [name for name in store.records() if name.startswith("catalogue")]
        store.describe(Catalogue(), lambda _: False)
        assert store.descriptions() == Catalogue()

    def test_headers_show_what_images_say(self, store: VolumeStore) -> None:
        add(store, A, 64)
        add(store, B, 32, "vhd")
        parent = ImageRef(store.path(A, "qcow2"), "qcow2")
        cow = FORMATS.cow("qcow2")
        store.create(
            C, "qcow2", lambda path: cow.snapshot(path, parent, 64 * MIB), nothing, room(64)
        )
        cow.set_hidden(parent.path, True)
        found = {}
        for volume, path in store.headers(store.listing().volumes):
            info = FORMATS.get(volume.format).info(path)
            named = store.parent_uuid(info.parent.name) if info.parent else None
            found[volume.uuid] = (info.virtual_size // MIB, info.hidden, named)
        assert found == {A: (64, True, None), B: (32, False, None), C: (64, False, (A, "qcow2"))}

    @pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
    def test_a_hidden_image_is_given_room_and_trimmed(
        self, store: VolumeStore, image_format: str
    ) -> None:
        """What is reserved can be written, what is not used comes back, and the image is whole."""
        add(store, A, 64, image_format)
        image = FORMATS.cow(image_format)
        image.set_hidden(store.path(A, image_format), True)
        store.trim(A, image_format)
        small = store.space().free
        store.reserve(A, image_format, 16 * MIB)
        assert store.space().free <= small
        image.resize(store.path(A, image_format), 128 * MIB)
        store.trim(A, image_format)
        store.trim(A, image_format)
        assert store.space().free >= small - 8 * MIB
        with store.writing(A, image_format):
            image.set_hidden(store.path(A, image_format), False)
        assert image.check(store.path(A, image_format)).clean
        info = image.info(store.path(A, image_format))
        assert (info.virtual_size, info.hidden) == (128 * MIB, False)
