"""Mounts and disks that killed tests leave, on a kernel where all may make them."""

from __future__ import annotations

from pathlib import Path

import pytest

from sm.block.mounts import TABLE, parse_table
from sm.owner import start_time
from tests.suite.inner import IN_THE_MIDDLE, Inner
from tests.support.lvm.loop import attached_file
from tests.support.lvm.tools import call

pytestmark = pytest.mark.world

MORE = """from tests.support.lvm.loop import attached
    from tests.support.lvm.tools import call
    disk = attached(tmp_path / "disk", 8 << 20)
    device = disk.__enter__().device
    call("mkfs.ext4", "-q", device)
    (tmp_path / "mounted").mkdir()
    call("mount", device, tmp_path / "mounted")
    other = attached(tmp_path / "other", 8 << 20)
    call("dmsetup", "create", f"sm-test-{os.getpid()}", "--table",
         f"0 8 linear {other.__enter__().device} 0")"""


def backing_files(folder: Path) -> list[str]:
    """The files below a folder that loop devices have attached."""
    found = [each.read_text() for each in Path("/sys/block").glob("loop*/loop/backing_file")]
    return [file for file in found if file.startswith(f"{folder}/")]


def mounts(folder: Path) -> list[Path]:
    """What is mounted below a folder."""
    table = parse_table(TABLE.read_bytes())
    return [mount.folder for mount in table if mount.folder.is_relative_to(folder)]


def mapped() -> set[str]:
    return {line.split()[0] for line in call("dmsetup", "ls").splitlines() if "sm-test-" in line}


@pytest.mark.usefixtures("device_mapper")
def test_mounts_and_disks_of_a_killed_session_go(tmp_path: Path) -> None:
    inner = Inner(tmp_path)
    own = mapped()
    killed = inner.start(IN_THE_MIDDLE.replace("MORE", MORE).replace("END", "time.sleep(1000)"))
    left = inner.until_ready(killed)
    killed.kill()
    killed.wait()
    assert len(mounts(tmp_path)) == 1
    assert len(backing_files(tmp_path)) == 2
    assert len(mapped() - own) == 1
    status, text = inner.run("def test_nothing(): pass\n")
    assert status == 0, text
    assert f"left by an earlier session {killed.pid}: process {left[0]}" in text
    assert f"left by an earlier session {killed.pid}: mount {tmp_path}" in text
    assert text.count(f"left by an earlier session {killed.pid}: /dev/loop") == 2
    assert not any(start_time(each) for each in left)
    assert mounts(tmp_path) == []
    assert backing_files(tmp_path) == []
    assert mapped() == own


def test_a_device_that_was_left_read_only_is_an_ordinary_disk(tmp_path: Path) -> None:
    file = tmp_path / "disk"
    file.write_bytes(bytes(1 << 20))
    free = Path(call("losetup", "--find").strip())
    call("blockdev", "--setro", free)
    with attached_file(file) as disk:
        disk.device.write_bytes(b"\x01" * (1 << 20))
        assert disk.device == free
    assert file.read_bytes() == b"\x01" * (1 << 20)
    assert Path("/sys/class/block", free.name, "ro").read_text() == "0\n"
