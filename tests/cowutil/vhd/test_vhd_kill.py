"""The n-th effect fails, or the process dies there, for every n until the operation completes."""

from __future__ import annotations

import errno
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm.cowutil.vhd.block_file import Access, BlockFile, open_file
from tests.cowutil.vhd.vhd_support import (
    MIB,
    content,
    fill,
    open_disk,
    qemu_content,
    ref,
    util,
)


class Killed(BaseException):
    """Nothing in the code under test may catch this."""


@dataclass
class Countdown:
    """Files on disk whose n-th write, flush or truncate raises instead."""

    left: int
    error: Callable[[], BaseException]

    def open(self, path: Path, access: Access) -> BlockFile:
        return Failing(open_file(path, access), self)

    def tick(self) -> None:
        self.left -= 1
        if self.left == 0:
            raise self.error()


class Failing:
    """A real file that counts its effects."""

    def __init__(self, file: BlockFile, countdown: Countdown) -> None:
        self._file = file
        self._countdown = countdown
        self.path = file.path
        self.resizable = file.resizable
        self.size = file.size
        self.read_into = file.read_into
        self.close = file.close

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._countdown.tick()
        self._file.write(offset, data)

    def flush(self) -> None:
        self._countdown.tick()
        self._file.flush()

    def truncate(self, size: int) -> None:
        self._countdown.tick()
        self._file.truncate(size)

    def discard(self, offset: int, length: int) -> None:
        self._countdown.tick()
        self._file.discard(offset, length)


@dataclass
class Scene:
    """A chain of three on disk, leaf first, a spare copy of it, and the disk that it shows."""

    folder: Path
    chain: list[Path]
    model: bytes
    other: Path

    def restore(self) -> None:
        for path in self.chain:
            shutil.copyfile(self.folder / "spare" / path.name, path)

    def sound(self) -> None:
        """The chain shows what it must, and every image is in order but for lost space."""
        seen = content(self.chain)
        assert seen == self.model.ljust(len(seen), b"\0")
        for path in self.chain:
            assert not util().check(path).corruptions


@pytest.fixture
def scene(tmp_path: Path) -> Scene:
    size = 6 * MIB
    model = bytearray(size)
    chain: list[Path] = []
    (tmp_path / "spare").mkdir()
    for level in range(3):
        path = tmp_path / f"{level}.vhd"
        if chain:
            util().snapshot(path, ref(chain[0]), size)
        else:
            util().create(path, size)
        chain.insert(0, path)
        disk = open_disk(chain)
        fill(disk, model, seed=level, count=5)
        disk.close()
        shutil.copyfile(path, tmp_path / "spare" / path.name)
    other = tmp_path / "other.vhd"
    shutil.copyfile(chain[1], other)
    return Scene(tmp_path, chain, bytes(model), other)


def resize_little(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).resize(scene.chain[0], 8 * MIB)


def resize_much(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).resize(scene.chain[2], 900 * MIB)


def set_parent(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).set_parent(scene.chain[0], ref(scene.other))


def set_hidden(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).set_hidden(scene.chain[1], True)


def repair(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).repair(scene.chain[1])


def coalesce_one(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).coalesce([ref(path) for path in scene.chain], 1)


def coalesce_all(scene: Scene, countdown: Countdown) -> None:
    util(countdown.open).coalesce([ref(path) for path in scene.chain], 2)


OPERATIONS = (
    resize_little, resize_much, set_parent, set_hidden, repair, coalesce_one, coalesce_all,
)  # fmt: skip


@pytest.mark.one_in(5)
@pytest.mark.parametrize("operation", OPERATIONS)
@pytest.mark.parametrize("failure", ["killed", "full", "broken"])
def test_every_effect_may_be_the_last(
    scene: Scene, operation: Callable[[Scene, Countdown], None], failure: str
) -> None:
    errors: dict[str, Callable[[], BaseException]] = {
        "killed": Killed,
        "full": lambda: OSError(errno.ENOSPC, "full"),
        "broken": lambda: OSError(errno.EIO, "broken"),
    }
    for number in range(1, 1000):
        scene.restore()
        if operation is repair:
            # A leak and no footer at the end, as an interrupted allocation leaves them.
            with scene.chain[1].open("r+b") as file:
                file.seek(-512, 2)
                file.write(b"\xcc" * MIB)
        countdown = Countdown(number, errors[failure])
        try:
            operation(scene, countdown)
        except (Killed, OSError):
            scene.sound()
            operation(scene, Countdown(0, Killed))
            scene.sound()
            continue
        assert countdown.left > 0
        scene.sound()
        assert number > 2, "the operation has no effects"
        return
    pytest.fail("the operation never completes")


CHILD = """
import sys
from pathlib import Path
from tests.cowutil.vhd.vhd_support import ref, util
operation, *chain = sys.argv[1:]
if operation == "coalesce":
    util().coalesce([ref(Path(path)) for path in chain], 2)
else:
    util().resize(Path(chain[2]), 900 << 20)
"""


@pytest.mark.one_in(2)
@pytest.mark.parametrize("operation", ["coalesce", "resize"])
def test_a_real_process_killed_at_a_system_call(scene: Scene, operation: str) -> None:
    """A few of the points above for real: nothing that we call writes behind our back."""
    finished = 0
    for number in (1, 2, 4, 7, 500):
        scene.restore()
        command = [
            *("strace", "-f", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync,ftruncate"),
            *("-e", f"inject=pwrite64,fdatasync,ftruncate:signal=SIGKILL:when={number}"),
            *(sys.executable, "-c", CHILD, operation, *map(str, scene.chain)),
        ]
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
        assert ended.returncode in (0, -9, 137), ended.stderr
        finished += ended.returncode == 0
        scene.sound()
    assert finished == 1
    if operation == "coalesce":
        assert qemu_content(scene.chain[2]) == scene.model
