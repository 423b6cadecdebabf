"""Each fault of a disk arrives in programs that know nothing of it, and goes away again."""

from __future__ import annotations

import errno
import os
import shutil
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.outside.disk import CHANGES, Call, FailingDisk
from tests.support.outside.programs import program
from tests.support.patience import until

KIB = 1 << 10
MIB = 1 << 20

SQLITE = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1])
with database:
    database.execute("CREATE TABLE IF NOT EXISTS kept (data BLOB)")
    database.execute("INSERT INTO kept VALUES (zeroblob(?))", (int(sys.argv[2]),))
"""

PATIENT = """
import errno, os, sys, time
file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
while True:
    try:
        os.write(file, b"content")
        break
    except OSError as error:
        assert error.errno == errno.ENOSPC
        time.sleep(0.01)
"""


def dd(disk: FailingDisk, *words: str) -> subprocess.CompletedProcess[str]:
    return program(disk.environment, "dd", *words)


def test_dd_fills_it_to_the_last_block(disk: FailingDisk, tmp_path: Path) -> None:
    disk.fill_after(100 * KIB)
    target = tmp_path / "target"
    ended = dd(disk, "if=/dev/zero", f"of={target}", "bs=64K", "count=4")
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    # The second write was a partial one.
    assert target.stat().st_size == 100 * KIB
    assert disk.refused
    assert disk.left == 0


def test_what_is_there_can_be_written_over_without_space(disk: FailingDisk, tmp_path: Path) -> None:
    target = tmp_path / "target"
    target.write_bytes(b"\1" * 64 * KIB)
    disk.fill_after(0)
    within = ("if=/dev/zero", f"of={target}", "bs=4K", "conv=notrunc")
    assert dd(disk, *within, "count=16").returncode == 0
    assert target.read_bytes() == bytes(64 * KIB)
    assert dd(disk, *within, "count=17").returncode == 1


def test_space_comes_back_by_removal_and_truncation(disk: FailingDisk, tmp_path: Path) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    disk.fill_after(64 * KIB)
    assert dd(disk, "if=/dev/zero", f"of={first}", "bs=64K", "count=1").returncode == 0
    assert dd(disk, "if=/dev/zero", f"of={second}", "bs=4K", "count=1").returncode == 1
    assert program(disk.environment, "truncate", "-s", "32K", str(first)).returncode == 0
    assert disk.left == 32 * KIB
    assert program(disk.environment, "rm", str(first)).returncode == 0
    assert disk.left == 64 * KIB
    assert dd(disk, "if=/dev/zero", f"of={second}", "bs=64K", "count=1").returncode == 0


def test_space_while_a_process_runs(disk: FailingDisk, tmp_path: Path) -> None:
    """It goes on as soon as there is space."""
    target = tmp_path / "target"
    disk.fill_after(0)
    with subprocess.Popen(
        [sys.executable, "-c", PATIENT, str(target)], env={**os.environ, **disk.environment}
    ) as patient:
        until(lambda: disk.refused > 3)
        assert patient.poll() is None
        assert target.stat().st_size == 0
        disk.heal()
        assert patient.wait(60) == 0
    assert target.read_text() == "content"


def test_who_asks_for_space_is_told(disk: FailingDisk, tmp_path: Path) -> None:
    free = (
        *(sys.executable, "-c"),
        "import shutil, sys; print(shutil.disk_usage(sys.argv[1]).free)",
        str(tmp_path),
    )
    disk.fill_after(40 * KIB)
    assert program(disk.environment, *free).stdout == f"{40 * KIB}\n"
    disk.fill_after(40 * KIB, told=False)
    assert int(program(disk.environment, *free).stdout) > MIB
    assert shutil.disk_usage(tmp_path).free > MIB


def test_other_folders_are_on_a_good_disk(
    disk: FailingDisk, tmp_path_factory: pytest.TempPathFactory
) -> None:
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    disk.fill_after(0)
    disk.read_only()
    assert dd(disk, "if=/dev/zero", f"of={elsewhere}/target", "count=1").returncode == 0


def test_qemu_img_and_a_full_disk(disk: FailingDisk, tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(b"\1" * MIB)
    disk.fill_after(512 * KIB)
    convert = ("qemu-img", "convert", "-f", "raw", "-O", "qcow2", str(source), str(target))
    ended = program(disk.environment, *convert)
    assert ended.returncode == 1
    assert "No space left on device" in ended.stderr
    disk.heal()
    assert program(disk.environment, *convert).returncode == 0
    compare = ("qemu-img", "compare", "-f", "raw", "-F", "qcow2", str(source), str(target))
    assert program({}, *compare).returncode == 0


def test_preallocation_needs_space(disk: FailingDisk, tmp_path: Path) -> None:
    disk.fill_after(512 * KIB)
    for how in ("falloc", "full"):
        target = tmp_path / how
        ended = program(
            disk.environment,
            *("qemu-img", "create", "-f", "raw", "-o", f"preallocation={how}", str(target), "1M"),
        )
        assert ended.returncode == 1, how
        target.unlink(missing_ok=True)
    assert program(disk.environment, "fallocate", "-l", "1M", str(tmp_path / "file")).returncode


def test_qemu_io_with_errors(disk: FailingDisk, tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(bytes(MIB))
    io = ("qemu-io", "-f", "raw", "-c")
    read = disk.fail("read", errno.EIO, times=1, after=8, names="image")
    told = [program(disk.environment, *io, "read 0 64K", str(image)).stdout for _ in range(9)]
    assert any("Input/output error" in text for text in told)
    assert read.met == 1
    wrong = disk.fail("write", errno.EIO, times=1)
    written = program(disk.environment, *io, "write -P 1 0 64K", str(image))
    assert "Input/output error" in written.stdout
    assert wrong.met == 1
    synced = disk.fail("fsync", errno.EIO)
    commands = ("-c", "write -P 1 0 64K", "-c", "flush")
    ended = program(disk.environment, *io[:-1], *commands, str(image))
    assert "Input/output error" in ended.stdout + ended.stderr
    assert synced.met
    synced.end()
    ended = program(disk.environment, *io[:-1], *commands, str(image))
    assert "rror" not in ended.stdout + ended.stderr
    assert image.read_bytes()[: 64 * KIB] == b"\1" * 64 * KIB


def test_cat_reads_nothing_of_what_cannot_be_read(disk: FailingDisk, tmp_path: Path) -> None:
    good, bad = tmp_path / "good", tmp_path / "bad"
    for file in (good, bad):
        file.write_text("content")
    fault = disk.fail("read", errno.EIO, names="bad")
    ended = program(disk.environment, "cat", str(good), str(bad))
    assert (ended.returncode, ended.stdout) == (1, "content")
    assert "Input/output error" in ended.stderr
    assert fault.met


def test_sqlite_and_errors(disk: FailingDisk, tmp_path: Path) -> None:
    database = tmp_path / "database"
    insert = (sys.executable, "-c", SQLITE, str(database))
    assert program(disk.environment, *insert, "1000").returncode == 0
    disk.fill_after(8 * KIB)
    assert "database or disk is full" in program(disk.environment, *insert, "100000").stderr
    disk.heal()
    for call in ("write", "fsync"):
        fault = disk.fail(call, errno.EIO, times=1, names="database*")
        assert "disk I/O error" in program(disk.environment, *insert, "1000").stderr, call
        assert fault.met == 1
    assert program(disk.environment, *insert, "1000").returncode == 0
    assert sqlite3.connect(database).execute("SELECT count(*) FROM kept").fetchone() == (2,)


def test_the_nth_call(disk: FailingDisk, tmp_path: Path) -> None:
    target = tmp_path / "target"
    fault = disk.fail("write", errno.EIO, times=1, after=2)
    ended = dd(disk, "if=/dev/zero", f"of={target}", "bs=4K", "count=5")
    assert ended.returncode == 1
    assert target.stat().st_size == 8 * KIB
    assert fault.met == 1
    assert dd(disk, "if=/dev/zero", f"of={target}", "bs=4K", "count=5").returncode == 0


def test_a_part_of_a_write(disk: FailingDisk, tmp_path: Path) -> None:
    target = tmp_path / "target"
    write = ("if=/dev/zero", f"of={target}", "bs=4K", "count=1")
    disk.fail("write", errno.EIO, times=1, transferred=512)
    assert dd(disk, *write).returncode == 1
    assert target.stat().st_size == 512
    short = disk.shorten("write", 1000, times=1)
    assert dd(disk, *write).returncode == 0
    assert short.met == 1
    assert target.stat().st_size == 4 * KIB


def test_changes_of_a_read_only_disk(disk: FailingDisk, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("content")
    fault = disk.read_only()
    changes = (
        ("touch", str(tmp_path / "new")),
        ("mv", str(file), str(tmp_path / "other")),
        ("ln", str(file), str(tmp_path / "other")),
        ("ln", "-s", str(file), str(tmp_path / "other")),
        ("rm", str(file)),
        ("mkdir", str(tmp_path / "folder")),
        ("truncate", "-s", "0", str(file)),
        ("dd", "if=/dev/zero", f"of={file}", "count=1"),
    )
    for argv in changes:
        ended = program(disk.environment, *argv)
        assert "Read-only file system" in ended.stderr, argv
    assert fault.met >= len(changes)
    assert program(disk.environment, "cat", str(file)).stdout == "content"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize("call", CHANGES)
def test_each_kind_of_call_by_python(call: Call, disk: FailingDisk, tmp_path: Path) -> None:
    does: dict[Call, str] = {
        "write": "os.pwrite(os.open('file', os.O_RDWR), b'x', 0)",
        "allocate": "os.posix_fallocate(os.open('file', os.O_RDWR), 0, 9)",
        "truncate": "os.truncate('file', 1)",
        "open": "open('new', 'w')",
        "name": "os.rename('file', 'other')",
    }
    (tmp_path / "file").write_text("content")
    fault = disk.fail(call, errno.EDQUOT)
    script = f"import os; os.chdir({str(tmp_path)!r}); {does[call]}"
    ended = program(disk.environment, sys.executable, "-c", script)
    assert "Disk quota exceeded" in ended.stderr
    assert fault.met == 1
    fault.end()
    assert program(disk.environment, sys.executable, "-c", script).returncode == 0


def test_a_slow_disk(disk: FailingDisk, tmp_path: Path) -> None:
    """So many calls, each so late: the process cannot have been quicker."""
    target = tmp_path / "target"
    fault = disk.slow("write", 0.05, names="target")
    began = time.monotonic()
    assert dd(disk, "if=/dev/zero", f"of={target}", "bs=4K", "count=4").returncode == 0
    assert time.monotonic() - began >= 0.2
    assert fault.met == 4
