"""The folder of images as a volume store."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.errors import SrUnavailable
from sm.volumes.base import Room
from sm.volumes.directory import DirectoryStore, identity
from tests.volumes.contract import A, B, C, VolumeStoreContract, nothing

ROOM = Room(0, 0)


@pytest.fixture
def store(tmp_path: Path) -> DirectoryStore:
    """An empty store."""
    folder = tmp_path / "images"
    folder.mkdir()
    return DirectoryStore(folder, identity(folder), ("qcow2", "vhd", "raw"))


def holding(content: bytes) -> Callable[[Path], None]:
    """Writes an image with this content."""

    def make(path: Path) -> None:
        path.write_bytes(content)

    return make


def add(store: DirectoryStore, name: str, content: bytes = b"x") -> None:
    """A volume of format raw."""
    store.create(name, "raw", holding(content), nothing, ROOM)


class TestContract(VolumeStoreContract):
    """The contract of all stores."""


def test_strangers_are_told_apart(store: DirectoryStore) -> None:
    add(store, A)
    for name in ("backup.vhd", f"OLD_{B}.qcow2", f"{A.upper()}.raw", "note.txt", f"{C}.vmdk"):
        (store.folder / name).write_bytes(b"?")
    (store.folder / f"{C}.raw").symlink_to("/etc/passwd")
    (store.folder / f"{B}.vhd").mkdir()
    (store.folder / f".new-{B}.vhd").write_bytes(b"?")
    listing = store.listing()
    assert [volume.uuid for volume in listing.volumes] == [A]
    names = {stranger.name for stranger in listing.strangers}
    assert names == {"backup.vhd", f"OLD_{B}.qcow2", f"{C}.raw"} | (
        {f"{A.upper()}.raw"} if A.upper() != A else set()
    )


def test_displace_and_undo(store: DirectoryStore) -> None:
    add(store, A, b"old")
    assert not store.displaced(A, "raw", B)
    os.link(store.path(A, "raw"), store.path(B, "raw"))
    assert not store.displaced(A, "raw", B)
    store.undo_displace(A, "raw", B)
    assert not store.path(B, "raw").exists()
    store.displace(A, "raw", B, holding(b"new"), ROOM)
    assert store.displaced(A, "raw", B)
    assert store.path(A, "raw").read_bytes() == b"new"
    assert store.path(B, "raw").read_bytes() == b"old"
    store.undo_displace(A, "raw", B)
    assert store.path(B, "raw").read_bytes() == b"old"


def test_fingerprint_changes_with_a_write(store: DirectoryStore) -> None:
    add(store, A, b"leaf")
    before = store.fingerprint(A, "raw")
    assert store.fingerprint(A, "raw") == before
    os.utime(store.path(A, "raw"), ns=(0, 1))
    assert store.fingerprint(A, "raw") != before


def test_another_folder_in_its_place_is_refused(store: DirectoryStore) -> None:
    add(store, A)
    store.folder.rename(store.folder.with_name("away"))
    with pytest.raises(SrUnavailable):
        store.listing()
    store.folder.mkdir()
    for use in (store.listing, store.space, store.records, lambda: store.remove(A, "raw")):
        with pytest.raises(SrUnavailable):
            use()


def test_parents_are_names_of_ours(store: DirectoryStore) -> None:
    assert store.parent_uuid(f"{A}.vhd") == (A, "vhd")
    for name in ("../x.vhd", f"./{A}.vhd", f"{A}.vmdk", "base.qcow2", f"OLD_{A}.vhd", ""):
        assert store.parent_uuid(name) is None


def test_leftovers_are_removed(store: DirectoryStore) -> None:
    (store.folder / ".new-x").write_bytes(b"x" * 5000)
    (store.folder / "..new-x.qcow2.new").write_bytes(b"x")
    assert store.remove_unfinished() >= 5000
    assert list(store.folder.iterdir()) == []
