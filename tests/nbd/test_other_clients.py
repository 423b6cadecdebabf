"""Disks served to other people's clients: fio, nbdkit's, libnbd's and qemu's, each with a check."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support import guest
from tests.support.patience import patient
from tests.support.site import MIB, Site

SIZE = 16 * MIB


@pytest.fixture
def served(site: Site, cow_format: str) -> Iterator[tuple[Site, str, str, str]]:
    """(site, SR, VDI, NBD URI) of an active disk over a snapshotted base with data."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format, SIZE)
    uri = site.activate(disk)
    qemu_io(uri, f"write -P 5 {MIB} {4 * MIB}")
    site.snapshot(disk)
    yield site, sr, disk, uri
    site.deactivate(disk)


def run(*command: str) -> str:
    """A command that has to end well."""
    ended = subprocess.run(
        command, capture_output=True, text=True, timeout=patient(120), check=False
    )
    assert ended.returncode == 0, ended.stderr + ended.stdout
    return ended.stdout


def test_fio_verifies_what_it_wrote(served: tuple[Site, str, str, str], tmp_path: Path) -> None:
    _, _, _, uri = served
    said = run(
        *("fio", "--name=verify", "--ioengine=nbd", f"--uri={uri}", f"--directory={tmp_path}"),
        *("--rw=randwrite", "--bsrange=512-256k", "--blockalign=512", f"--size={SIZE}"),
        *("--iodepth=16", "--fsync=50", "--verify=crc32c", "--verify_fatal=1", "--do_verify=1"),
        "--verify_state_save=0",
        *("--randseed=7", "--output-format=terse"),
    )
    assert "verify" in said
    assert "bad" not in said


def test_nbdkit_as_client(served: tuple[Site, str, str, str]) -> None:
    """Through nbdkit's NBD client to libnbd's copier."""
    _, _, _, uri = served
    ended = subprocess.run(
        ["nbdkit", "-U", "-", "nbd", f"uri={uri}", "--run", 'nbdcopy "$uri" -'],
        capture_output=True,
        check=True,
        timeout=patient(60),
    )
    assert ended.stdout == content(uri, SIZE)
    assert ended.stdout == bytes(MIB) + bytes([5]) * (4 * MIB) + bytes(SIZE - 5 * MIB)


def test_qemu_img_reads_and_writes(served: tuple[Site, str, str, str], tmp_path: Path) -> None:
    """qemu-img writes a whole disk into it, and finds it equal; so do we once it is closed."""
    site, sr, disk, uri = served
    image = tmp_path / "disk.raw"
    data = b"".join(bytes([number % 251]) * 4096 for number in range(SIZE // 4096))
    image.write_bytes(data)
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", str(image), uri)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", str(image), uri)
    site.deactivate(disk)
    assert guest.content(site.chain(sr, disk)) == data
    site.activate(disk)
