"""SIGKILL in a merge that gives back space as it goes: the disk stays, and the work can go on."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from tests.cowutil.contract.subjects import CowSubject, make_cow
from tests.cowutil.contract.test_cow_contract import MIB, Disk
from tests.support.patience import patient, until
from tests.support.tiers import every

CHILD = str(Path(__file__).with_name("stepwise_child.py"))


def scene(subject: CowSubject, folder: Path) -> Disk:
    """Three images that hold parts of every piece, and a fourth on top."""
    disk = Disk(subject, folder, seed=1)
    for level in range(3):
        if level:
            disk.snapshot()
        for piece in range(3):
            disk.write(2 * MIB * piece + 192 * 1024 * level, 512 * 1024, 10 * level + piece + 1)
    return disk


def killed(way: str, chain: list[ImageRef], call: str, number: int) -> bool:
    """Kill the child at the N-th such call of its own; false when it ended before."""
    ended = subprocess.run(
        [
            *("strace", "-o", "/dev/null", "-e", f"trace={call}"),
            *("-e", f"inject={call}:signal=SIGKILL:when={number}"),
            *(sys.executable, CHILD, way, *(str(image.path) for image in chain)),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
    if ended.returncode == 0:
        return False
    assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ended.stderr
    return True


def wait_for_helpers(chain: list[ImageRef]) -> None:
    """A process that is killed with its parent has the images open for a moment more."""
    paths = {str(image.path) for image in chain}

    def closed() -> bool:
        links = Path("/proc").glob("[0-9]*/fd/*")
        return paths.isdisjoint(name for link in links for name in target(link))

    until(closed, "the end of those who have the images open")


def target(link: Path) -> list[str]:
    """What a link to an open file leads to; nothing once it is closed."""
    try:
        return [str(link.readlink())]
    except OSError:
        return []


@pytest.mark.one_in(12)
@pytest.mark.parametrize("call", ["fallocate", "fdatasync", "pwrite64"])
@pytest.mark.parametrize("way", ["down", "up"])
@pytest.mark.parametrize("name", ["qcow2", "vhd"])
def test_killed_at_a_call(name: str, way: str, call: str, tmp_path: Path) -> None:
    subject = make_cow(name)
    start = tmp_path / "start"
    start.mkdir()
    model = bytes(scene(subject, start).model)
    every_third = call != "fallocate"
    first, step = every(2, f"{name}, {way}, {call}")
    kills = 0
    for number in range(1 + first, 400, step * 3 if every_third else step):
        folder = tmp_path / str(number)
        shutil.copytree(start, folder)
        chain = [subject.ref(folder, str(level)) for level in (2, 1, 0)]
        if not killed(way, chain, call, number):
            break
        kills += 1
        wait_for_helpers(chain)
        assert subject.content(chain) == model
        for image in chain:
            assert not subject.images.check(image.path).corruptions
        assert not killed(way, chain, "sync", 1)
        if way == "up":
            subject.images.set_parent(chain[0].path, None)
        left = chain[:1] if way == "up" else chain[2:]
        assert subject.content(left) == model
        assert not subject.images.check(left[0].path).corruptions
    assert kills >= 1
