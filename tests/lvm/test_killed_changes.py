"""Killed at commands of LVM and records, in a soak at each: a volume is whole under one name."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from sm.volumes.base import Room
from sm.volumes.lvm.store import LvmStore
from tests.lvm.killed import killed, moments
from tests.lvm.test_lvm_store import group_store, store
from tests.support.site import MIB
from tests.volumes.contract import FORMATS, A, B, add, making, nothing, room, size_of

__all__ = ["group_store", "store"]

pytestmark = [
    pytest.mark.parametrize("group_store", ["thin"], indirect=True, scope="module"),
    pytest.mark.one_in(2, across="file"),
]


def sizes(store: LvmStore) -> dict[str, int]:
    """The disks of all images by the names of their volumes, in MiB; each is sound."""
    found = {}
    for volume in store.listing().volumes:
        store.prepare([(volume.uuid, volume.format)])
        assert FORMATS.get(volume.format).check(volume.path).clean
        found[volume.uuid] = size_of(store, volume.uuid, volume.format)
    return found


def tidied(store: LvmStore) -> dict[str, int]:
    """The same after what the next call does; nothing is left over then."""
    store.remove_unfinished()
    assert store.unfinished() == ()
    assert store.listing().strangers == ()
    return sizes(store)


def clear(store: LvmStore) -> None:
    """Remove all images."""
    for volume in store.listing().volumes:
        store.remove(volume.uuid, volume.format)


def test_create(store: LvmStore) -> None:
    for number, after in moments(3, "create"):
        done = not killed(
            lambda: store.create(A, "qcow2", making(64), nothing, room(64)), number, after=after
        )
        assert tidied(store) in ({}, {A: 64})
        clear(store)
        if done:
            break


def test_displace(store: LvmStore) -> None:
    for number, after in moments(3, "displace"):
        add(store, A, 64)
        done = not killed(
            lambda: store.displace(A, "qcow2", B, making(32), room(32)), number, after=after
        )
        store.undo_displace(A, "qcow2", B)
        found = tidied(store)
        assert found == ({A: 32, B: 64} if store.displaced(A, "qcow2", B) else {A: 64})
        clear(store)
        if done:
            break


def test_supersede(store: LvmStore) -> None:
    for number, after in moments(3, "supersede"):
        add(store, A, 64)
        add(store, B, 32)
        store.trim(B, "qcow2")
        done = not killed(lambda: store.supersede(A, "qcow2", B), number, after=after)
        switched = store.superseded(A, "qcow2", B)
        assert sizes(store) == ({A: 32} if switched else {A: 64, B: 32})
        assert tidied(store) == sizes(store)
        clear(store)
        if done:
            break


Change = Callable[[LvmStore, str], None]


def reserve(store: LvmStore, image_format: str) -> None:
    store.reserve(A, image_format, 24 * MIB)


def make_room(store: LvmStore, image_format: str) -> None:
    wanted = Room(40 * MIB, FORMATS.get(image_format).full_size(64 * MIB))
    store.make_room(A, image_format, wanted, in_use=False)


def trim(store: LvmStore, image_format: str) -> None:
    store.trim(A, image_format)


@pytest.mark.parametrize(
    ("change", "image_format"), [(make_room, "qcow2"), (reserve, "vhd"), (trim, "vhd")]
)
def test_changes_of_size(store: LvmStore, change: Change, image_format: str) -> None:
    """The image can be read at once, and the next call takes up what is left.

    there.
    """
    image = FORMATS.cow(image_format)
    for number, after in moments(3, f"{change.__name__}, {image_format}"):
        add(store, A, 64, image_format)
        image.set_hidden(store.path(A, image_format), True)
        if change is trim:
            make_room(store, image_format)
        else:
            store.trim(A, image_format)
        done = not killed(lambda: change(store, image_format), number, after=after)
        for volume, path in store.headers(store.listing().volumes):
            assert image.info(path).virtual_size == 64 * MIB, volume
        assert tidied(store) == {A: 64}
        make_room(store, image_format)
        assert tidied(store) == {A: 64}
        clear(store)
        if done:
            break
