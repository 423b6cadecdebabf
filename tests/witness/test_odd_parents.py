"""Images whose parents have names that mean nothing here: what may be the parent stays."""

from __future__ import annotations

import subprocess
import uuid
from pathlib import Path

from tests.support import guest
from tests.support.guest import Model
from tests.support.site import MIB, Site

HEADERS = 1536
"""Bytes of a footer and a header of a VHD, which have checksums."""


def test_a_file_that_names_a_parent_that_is_not_here_keeps_all_that_may_be_it(site: Site) -> None:
    """The one that is not here may be an image of this SR under its former name."""
    sr = site.create_sr()
    folder = site.folder / "store"
    disk = site.create_vdi(sr, "qcow2", 16 * MIB)
    model = Model(16 * MIB)
    model.write(site.chain(sr, disk), 0, 4 * MIB, 1)
    former = folder / "former.qcow2"
    (folder / f"{disk}.qcow2").rename(former)
    child = folder / f"{uuid.uuid4()}.qcow2"
    subprocess.run(
        ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", former.name, child],
        cwd=folder,
        check=True,
    )
    former.rename(folder / f"{disk}.qcow2")
    before = (folder / f"{disk}.qcow2").read_bytes()
    site.sm("sr", "scan", sr)
    site.delete(disk)
    ended = site.sm("gc", "run", "--sr", sr)
    assert ended["done"] == []
    assert {each["code"] for each in ended["waiting"]} == {"damaged-tree"}
    _name_parent(child, f"{disk}.qcow2")
    assert _content(child) == model.data
    assert (folder / f"{disk}.qcow2").stat().st_size >= len(before) - 65536


def test_a_vhd_is_told_by_its_identity_and_holds_nothing_else_back(site: Site) -> None:
    sr = site.create_sr()
    folder = site.folder / "store"
    disk, other = (site.create_vdi(sr, "vhd", 16 * MIB) for _ in range(2))
    model = Model(16 * MIB)
    model.write(site.chain(sr, disk), 0, 4 * MIB, 1)
    snapshot = site.snapshot(disk)
    base = site.sm("vdi", "show", disk)["parent"]
    # In their locators both children name the base otherwise from here on, at the same length.
    odd = str(uuid.uuid4())
    for child in (disk, snapshot):
        path = folder / f"{child}.vhd"
        headers, rest = path.read_bytes()[:HEADERS], path.read_bytes()[HEADERS:]
        for encoding in ("utf-8", "utf-16-le"):
            rest = rest.replace(base.encode(encoding), f"x{odd[1:]}".encode(encoding))
        path.write_bytes(headers + rest)
    site.delete(other)
    ended = site.sm("gc", "run", "--sr", sr)
    assert [(step["action"], step["images"]) for step in ended["done"]] == [("delete", [other])]
    assert base in site.images(sr)
    assert guest.content(site.chain(sr, base)) == model.data


def _name_parent(child: Path, name: str) -> None:
    subprocess.run(
        ["qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2", "-b", name, child],
        cwd=child.parent,
        check=True,
    )


def _content(path: Path) -> bytes:
    raw = path.parent.parent / "read.raw"
    subprocess.run(["qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw], check=True)
    return raw.read_bytes()
