"""`sm image cat`: guest bytes and new images, compared by qemu and libvhdi."""

from __future__ import annotations

import errno
import os
import pty
import signal
import subprocess
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.vhd.util import VhdUtil
from sm.process import run
from tests.cli.image_files import (
    MIB,
    NO_ROOT,
    SM,
    chain_content,
    mixed_chain,
    qcow2,
    sm,
    sm_process,
    sm_text,
    write,
)
from tests.cowutil.contract.subjects import tool
from tests.cowutil.qcow2.images import qemu_check
from tests.cowutil.vhd.vhd_support import Libvhdi, fill, open_disk, qemu_content

QEMU_NAMES = {"qcow2": "qcow2", "vhd": "vpc", "raw": "raw"}


def test_plain_bytes_are_the_disk(tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    content = chain_content(chain)
    ended = sm_process("cat", chain[0].path)
    assert (ended.returncode, ended.stderr) == (0, b"")
    assert ended.stdout == content
    part = sm_process("cat", chain[0].path, "--offset", "1000k", "--length", "700001")
    assert part.stdout == content[1024000 : 1024000 + 700001]
    tail = sm_process("cat", chain[0].path, "--offset", str(len(content) - 3))
    assert tail.stdout == content[-3:]
    assert sm_process("cat", chain[0].path, "--length", "0").stdout == b""
    for wrong in (["--offset", str(len(content) + 1)], ["--offset", "1M", "--length", "1G"]):
        assert sm_text("cat", chain[0].path, *wrong) == (1, "")


@pytest.mark.parametrize("target", ["qcow2", "vhd", "raw"])
def test_a_chain_becomes_one_image(target: str, tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    out = tmp_path / f"out.{target}"
    found = sm("cat", chain[0].path, "--output", out)
    assert found["output"] == str(out)
    assert (found["format"], found["virtual_size"]) == (target, 12 * MIB)
    compare = ("qemu-img", "compare", "-f", "qcow2", "-F", QEMU_NAMES[target])
    tool(*compare, str(chain[0].path), str(out))
    if target == "raw":
        assert out.stat().st_blocks * 512 < 12 * MIB
    assert sm("check", out)["good"]
    if target == "qcow2":
        assert qemu_check(out) == (0, 0)
    assert sm("info", out)["parent"] is None
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(
        ["base.raw", "low.qcow2", "mid.qcow2", "top.qcow2", out.name]
    )


@pytest.mark.parametrize("target", ["qcow2", "vhd"])
def test_an_image_goes_through_a_pipe(target: str, tmp_path: Path) -> None:
    chain = mixed_chain(tmp_path)
    ended = sm_process("cat", chain[0].path, "--to", target)
    assert (ended.returncode, ended.stderr) == (0, b"")
    out = tmp_path / "out.img"
    out.write_bytes(ended.stdout)
    tool("qemu-img", "compare", "-F", QEMU_NAMES[target], str(chain[0].path), str(out))


def test_a_vhd_chain_becomes_any_image(tmp_path: Path) -> None:
    util = VhdUtil(run)
    base, child = tmp_path / "base.vhd", tmp_path / "child.vhd"
    model = bytearray(10 * MIB)
    util.create(base, 10 * MIB)
    disk = open_disk([base])
    fill(disk, model, seed=1, count=20, unit=4096)
    disk.close()
    util.snapshot(child, ImageRef(base, "vhd"), 10 * MIB)
    disk = open_disk([child, base])
    fill(disk, model, seed=2, count=20, unit=4096)
    disk.close()
    assert Libvhdi().content([child, base]) == model
    for target in ("raw", "qcow2", "vhd"):
        out = tmp_path / f"out.{target}"
        sm("cat", child, "--output", out)
        raw = tmp_path / "as.raw"
        tool("qemu-img", "convert", "-f", QEMU_NAMES[target], "-O", "raw", str(out), str(raw))
        assert raw.read_bytes() == model
    assert Libvhdi().content([tmp_path / "out.vhd"]) == model


def test_a_raw_disk_of_an_odd_size(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    source.write_bytes(b"\x01" * 100_001)
    assert sm_process("cat", source).stdout == source.read_bytes()
    sizes = {"raw": 100_352, "qcow2": 100_352, "vhd": 2 * MIB}
    for target, size in sizes.items():
        out = tmp_path / f"out.{target}"
        assert sm("cat", source, "--output", out)["virtual_size"] == size
    assert qemu_content(tmp_path / "out.vhd") == source.read_bytes().ljust(2 * MIB, b"\0")
    assert (tmp_path / "out.raw").read_bytes() == source.read_bytes().ljust(100_352, b"\0")


def test_an_existing_file_is_kept_without_force(tmp_path: Path) -> None:
    source = qcow2(tmp_path / "a.qcow2", MIB)
    out = tmp_path / "out.raw"
    out.write_bytes(b"precious")
    assert "--force" in sm("cat", source.path, "--output", out, code=1)["error"]["message"]
    assert out.read_bytes() == b"precious"
    sm("cat", source.path, "--output", out, "--force")
    assert out.read_bytes() == bytes(MIB)
    (tmp_path / "link.raw").symlink_to("nowhere")
    for force in ([], ["--force"]):
        sm("cat", source.path, "--output", tmp_path / "link.raw", *force, code=1)
    before = source.path.read_bytes()
    to_itself = ("cat", source.path, "--output", source.path, "--force")
    assert "copied" in sm(*to_itself, code=1)["error"]["message"]
    assert source.path.read_bytes() == before


def test_a_failed_write_leaves_no_file(tmp_path: Path) -> None:
    """A compressed cluster is damaged: the copy stops when it comes there."""
    source = qcow2(tmp_path / "a.qcow2", 64 * MIB)
    write(source, "write -P 1 0 30M")
    end = source.path.stat().st_size
    write(source, "write -c -P 2 40M 64k")
    with source.path.open("r+b") as file:
        length = file.seek(0, os.SEEK_END) - end
        assert length > 0
        file.seek(end)
        file.write(b"\xff" * length)
    before = source.path.read_bytes()
    for target in ("raw", "qcow2", "vhd"):
        out = tmp_path / f"out.{target}"
        error = sm("cat", source.path, "--output", out, code=1)["error"]
        assert "compressed" in error["message"]
        assert [path.name for path in tmp_path.iterdir()] == ["a.qcow2"]
    assert source.path.read_bytes() == before


def test_a_full_disk_leaves_no_file(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    source.write_bytes(b"\x01" * (8 * MIB))
    argv = ["prlimit", f"--fsize={4 * MIB}", SM, "image", "cat", str(source), "--output"]
    for target in ("raw", "qcow2", "vhd"):
        ended = subprocess.run(
            [*argv, str(tmp_path / f"out.{target}")],
            capture_output=True, text=True, check=False, env={**os.environ, **NO_ROOT},
        )  # fmt: skip
        assert ended.returncode == 1, ended
        assert os.strerror(errno.EFBIG) in ended.stderr
        assert [path.name for path in tmp_path.iterdir()] == ["a.raw"]


@pytest.mark.parametrize(
    ("options", "word"),
    [
        (["--output", "x.raw", "--offset", "1"], "--offset"),
        (["--to", "qcow2", "--length", "1"], "--offset"),
        (["--output", "x.img"], "--to"),
        (["--json"], "--output"),
    ],
)
def test_contradictions_are_refused(
    options: list[str],
    word: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    source = qcow2(tmp_path / "a.qcow2", MIB)
    monkeypatch.chdir(tmp_path)
    code, text = sm_text("cat", source.path, *options)
    assert code == 1
    assert word in text + capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["a.qcow2"]


def test_a_disk_too_large_for_the_format_is_refused_at_once(tmp_path: Path) -> None:
    source = qcow2(tmp_path / "a.qcow2", 3 << 40)
    out = tmp_path / "out.vhd"
    assert sm("cat", source.path, "--output", out, code=1)["error"]["name"] == "VDISize"
    assert not out.exists()


def test_a_terminal_gets_a_refusal_or_a_bar_but_no_disk(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    source.write_bytes(b"\x01" * (8 * MIB))
    for more, status, word in (
        ([], 1, "terminal"),
        (["--output", str(tmp_path / "b.qcow2")], 0, "copying"),
    ):
        leader, follower = pty.openpty()
        child = subprocess.Popen(
            [SM, "image", "cat", str(source), *more],
            stdout=follower, stderr=follower, env={**os.environ, **NO_ROOT, "TERM": "xterm"},
        )  # fmt: skip
        os.close(follower)
        said = b""
        try:
            while piece := os.read(leader, 65536):
                said += piece
        except OSError as error:
            assert error.errno == errno.EIO  # the other end has closed
        os.close(leader)
        assert child.wait() == status
        assert word in said.decode()
        assert len(said) < 65536


def test_a_killed_copy_never_has_the_name(tmp_path: Path) -> None:
    source = tmp_path / "a.raw"
    with source.open("wb") as file:
        file.write(b"\x01" * (64 * MIB))
    out = tmp_path / "out.qcow2"
    for number in range(1, 40, 6):
        ended = subprocess.run(
            ["strace", "-f", "-o", "/dev/null", "-e", "trace=write",
             "-e", f"inject=write:signal=SIGKILL:when={number}",
             SM, "image", "cat", str(source), "--output", str(out)],
            capture_output=True, check=False, env={**os.environ, **NO_ROOT},
        )  # fmt: skip
        if ended.returncode == 0:
            assert qemu_check(out) == (0, 0)
            break
        assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL)
        assert not out.exists()
    assert number > 6
