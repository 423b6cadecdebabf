"""The folder of images as a volume store."""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from sm.errors import SrUnavailable, VdiExists, VdiMissing
from sm.volumes.directory import DirectoryStore, identity

A, B, C = (str(uuid.UUID(int=number)) for number in (1, 2, 3))


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


def nothing(used: int) -> None:
    """Do nothing before the name appears."""


def add(store: DirectoryStore, name: str, content: bytes = b"x") -> None:
    """A volume of format raw."""
    store.create(name, "raw", holding(content), nothing)


def test_create_lists_and_removes(store: DirectoryStore) -> None:
    store.create(A, "qcow2", holding(b"abc"), nothing)
    made = store.volume(A, "qcow2")
    assert (made.uuid, made.format, made.size) == (A, "qcow2", 3)
    assert store.listing().volumes == (made,)
    assert made.path.stat().st_mode & 0o777 == 0o600
    store.remove(A, "qcow2")
    store.remove(A, "qcow2")
    assert store.listing().volumes == ()
    with pytest.raises(VdiMissing):
        store.volume(A, "qcow2")


def test_create_never_replaces(store: DirectoryStore) -> None:
    add(store, A, b"first")
    with pytest.raises(VdiExists):
        add(store, A, b"second")
    assert store.path(A, "raw").read_bytes() == b"first"


@pytest.mark.parametrize("fails", ["make", "before"])
def test_failed_creation_leaves_nothing(store: DirectoryStore, fails: str) -> None:
    def make(path: Path) -> None:
        path.write_bytes(b"half")
        if fails == "make":
            raise OSError("full")

    def before(used: int) -> None:
        raise OSError("refused")

    with pytest.raises(OSError, match=r"full|refused"):
        store.create(A, "raw", make, before)
    assert list(store.folder.iterdir()) == []


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
    store.displace(A, "raw", B, holding(b"new"))
    assert store.displaced(A, "raw", B)
    assert store.path(A, "raw").read_bytes() == b"new"
    assert store.path(B, "raw").read_bytes() == b"old"
    store.undo_displace(A, "raw", B)
    assert store.path(B, "raw").read_bytes() == b"old"


def test_supersede(store: DirectoryStore) -> None:
    add(store, A, b"leaf")
    add(store, B, b"merged")
    before = store.fingerprint(A, "raw")
    store.supersede(A, "raw", B)
    assert store.path(A, "raw").read_bytes() == b"merged"
    assert not store.path(B, "raw").exists()
    assert store.fingerprint(A, "raw") != before


def test_fingerprint_changes_with_a_write(store: DirectoryStore) -> None:
    add(store, A, b"leaf")
    before = store.fingerprint(A, "raw")
    assert store.fingerprint(A, "raw") == before
    os.utime(store.path(A, "raw"), ns=(0, 1))
    assert store.fingerprint(A, "raw") != before


def test_records(store: DirectoryStore) -> None:
    assert store.records() == {}
    store.remove_record("journal-a")
    store.write_record("journal-a", b"1")
    store.write_record("journal-a", b"2")
    assert store.records() == {"journal-a": b"2"}
    store.remove_record("journal-a")
    assert store.records() == {}


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
