"""A program of others has an image open to write to it: nothing that needs it unwritten begins."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support import guest
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(4)


@contextmanager
def opened(path: Path, image_format: str) -> Iterator[subprocess.Popen[str]]:
    """qemu-io with an image open; it writes what it is told."""
    driver = {"vhd": "vpc"}.get(image_format, image_format)
    child = subprocess.Popen(
        ["qemu-io", "-f", driver, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    opened_files = Path("/proc", str(child.pid), "fd")
    try:
        until(
            lambda: any(link.resolve() == path for link in opened_files.iterdir()),
            "the image is open",
        )
        yield child
    finally:
        child.communicate("quit\n")


@pytest.mark.parametrize("command", ["snapshot", "clone", "delete", "activate"])
def test_nothing_begins_while_somebody_writes_to_the_image(
    site: Site, cow_format: str, command: str
) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, 16 * MIB)
    path = site.folder / "store" / f"{disk}.{cow_format}"
    images = site.images(sr)
    with opened(path, cow_format) as writer:
        with pytest.raises(Refused, match=f"process {writer.pid}"):
            site.sm("vdi", command, disk)
        assert site.images(sr) == images
        assert writer.stdin is not None
        writer.stdin.write("write -P 7 0 1M\nflush\n")
        writer.stdin.flush()
    assert guest.content(site.chain(sr, disk))[:MIB] == b"\x07" * MIB
    site.sm("vdi", command, disk)


def test_a_reader_is_no_hindrance(site: Site, cow_format: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, 16 * MIB)
    with (site.folder / "store" / f"{disk}.{cow_format}").open("rb"):
        snapshot = site.snapshot(disk)
    assert site.sm("vdi", "show", snapshot)["is_a_snapshot"]


def test_a_snapshot_is_not_written_to(site: Site, cow_format: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, 16 * MIB)
    guest.write(site.chain(sr, disk), 0, MIB, 1)
    snapshot = site.snapshot(disk)
    with pytest.raises(Refused, match="is a snapshot"):
        site.activate(snapshot)
    assert site.sm("vdi", "show", snapshot)["active"] == []
    site.activate(snapshot, "--read-only")
    site.deactivate(snapshot)
    clone = site.clone(snapshot)
    site.activate(clone)
    site.deactivate(clone)
