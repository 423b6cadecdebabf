"""Whether blocks will move is known before they do: asked, then done, and the table compared."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.cowutil.vhd.block_file import Access, open_file
from sm.cowutil.vhd.headers import load_headers
from sm.cowutil.vhd.tables import load_tables
from sm.process import run
from tests.cowutil.vhd.vhd_foreign import Foreign
from tests.support import guest
from tests.support.site import MIB

VHD = Formats(run).cow("vhd")
SIZE = 8 * MIB
LATER = 16 * MIB
NAMES = ("one-parent.vhd", "two-parent.vhd")


def places(path: Path) -> dict[int, int]:
    """Where each allocated block is, in sectors."""
    file = open_file(path, Access.READ)
    try:
        tables = load_tables(file, load_headers(file))
        return {int(block): int(tables.bat[block]) for block in tables.allocated}
    finally:
        file.close()


def ours(path: Path) -> None:
    VHD.create(path, SIZE)
    guest.write([ImageRef(path, "vhd")], 0, MIB, 1)


def of_qemu(path: Path) -> None:
    options = "subformat=dynamic,force_size=on"
    made = ["qemu-img", "create", "-q", "-f", "vpc", "-o", options, str(path), str(SIZE)]
    subprocess.run(made, check=True)
    written = ["qemu-io", "-f", "vpc", "-c", "write -P 1 0 1M", str(path)]
    subprocess.run(written, check=True, capture_output=True)


def empty(path: Path) -> None:
    """Without a block there is none to move."""
    path.write_bytes(bytes(Foreign(size=SIZE).build()))


@pytest.mark.parametrize(("make", "moves"), [(ours, False), (of_qemu, True), (empty, False)])
def test_a_larger_table(make, moves: bool, tmp_path: Path) -> None:
    path = tmp_path / "image.vhd"
    make(path)
    before = places(path)
    assert not VHD.moves_to_grow(path, SIZE)
    assert VHD.moves_to_grow(path, LATER * 64) == moves
    VHD.resize(path, LATER * 64)
    assert (places(path) != before) == moves


@pytest.mark.parametrize("room", [512, 1024, 2048, 4096])
@pytest.mark.parametrize("apart", [0, 1024])
def test_another_parent(room: int, apart: int, tmp_path: Path) -> None:
    """One locator in front of a table, with more or less space around it and before the blocks."""
    parents = [tmp_path / name for name in NAMES]
    for parent in parents:
        ours(parent)
    file = open_file(parents[0], Access.READ)
    unique = load_headers(file).footer.unique_id
    file.close()
    text = f".\\{NAMES[0]}".encode("utf-16-le")
    table = 1536 + room
    block = table + 512 + apart
    path = tmp_path / "image.vhd"
    foreign = Foreign(
        size=SIZE,
        table_at=table,
        parent=unique,
        name=NAMES[0],
        locators=[(b"W2ru", text, 1536, 512)],
        blocks={0: (block, b"\xff" * 512, b"\7" * (2 * MIB))},
    )
    path.write_bytes(bytes(foreign.build()))
    before = places(path)
    asked = VHD.moves_to_relink(path, parents[1])
    VHD.set_parent(path, ImageRef(parents[1], "vhd"))
    assert (places(path) != before) == asked
    # The new ones take two sectors, and the old one is kept until they are named.
    assert asked == (room <= 1024 and not apart)
