"""Mappings of this host after another host has renamed and removed what they are of.

The other host is played by LVM without a device-mapper: it changes the metadata alone.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.volumes.lvm.mappings import active
from sm.volumes.lvm.names import ImageName
from sm.volumes.lvm.store import LvmStore
from tests.lvm.test_lvm_store import GROUP, group_store, store
from tests.support.lvm.tools import call
from tests.volumes.contract import A, B, C, add, size_of

pytestmark = pytest.mark.one_in(2)

__all__ = ["group_store", "store"]

A_NAME, B_NAME = ImageName(A, "qcow2").text, ImageName(B, "qcow2").text


def elsewhere(command: str, *arguments: str) -> None:
    """Change the group as another host does."""
    call(command, "--yes", "--driverloaded", "n", *arguments)


def paths() -> set[str]:
    """The names below /dev of the volumes of the group; each leads to a device."""
    found = list(Path("/dev", GROUP).iterdir())
    assert all(path.is_block_device() for path in found)
    return {path.name for path in found}


def test_names_that_went_round_in_a_circle(store: LvmStore) -> None:
    add(store, A, 64)
    add(store, B, 32)
    for name, to in ((A_NAME, "aside"), (B_NAME, A_NAME), ("aside", B_NAME)):
        elsewhere("lvrename", GROUP, name, to)
    assert (size_of(store, A), size_of(store, B)) == (32, 64)
    assert {A_NAME, B_NAME} <= paths()


def test_the_name_of_a_removed_volume_is_for_another(store: LvmStore) -> None:
    add(store, A, 64)
    add(store, B, 32)
    elsewhere("lvremove", f"{GROUP}/{A_NAME}")
    elsewhere("lvrename", GROUP, B_NAME, A_NAME)
    assert size_of(store, A) == 32
    assert A_NAME in paths()
    assert B_NAME not in paths()


def test_the_name_of_a_removed_volume_that_is_open(store: LvmStore) -> None:
    """It can be read as long as it is open, and goes at a later change."""
    add(store, A, 64)
    add(store, B, 32)
    group = store._group.now()
    identity = group.volumes[A_NAME].id
    with store.path(A, "qcow2").open("rb", buffering=0) as file:
        elsewhere("lvremove", f"{GROUP}/{A_NAME}")
        elsewhere("lvrename", GROUP, B_NAME, A_NAME)
        assert size_of(store, A) == 32
        assert file.read(4) == b"QFI\xfb"
        assert active(group)[identity].name == f"sm-aside-{identity}"
    add(store, C, 16)
    elsewhere("lvrename", GROUP, A_NAME, B_NAME)
    assert size_of(store, B) == 32
    assert identity not in active(group)
