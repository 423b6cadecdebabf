"""One writer for each image: a second process is refused, with nothing changed, until it ends."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageBusy
from sm.cowutil.vhd.block_file import Access, open_file
from tests.cowutil.vhd.vhd_support import MIB, Libvhdi, content, fill, open_disk, ref, util

ROOT = Path(__file__).parents[3]
SIZE = 6 * MIB
HOLD = """
import sys, time
from pathlib import Path
from sm.cowutil.vhd.block_file import Access, open_file
file = open_file(Path(sys.argv[1]), Access.WRITE)
print("open", flush=True)
time.sleep(600)
"""


@contextmanager
def held(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process has the image open for writing; it is killed in the end."""
    argv = [sys.executable, "-c", HOLD, str(path)]
    child = subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == "open\n"
        yield child
    finally:
        child.kill()
        child.wait()


@pytest.fixture
def chain(tmp_path: Path) -> tuple[list[Path], bytes]:
    """A child with data over a parent with data, and what it reads as."""
    paths = [tmp_path / "child.vhd", tmp_path / "parent.vhd"]
    util().create(paths[1], SIZE)
    model = bytearray(SIZE)
    for number in (1, 0):
        if number == 0:
            util().snapshot(paths[0], ref(paths[1]), SIZE)
        with closing(open_disk(paths[number:])) as disk:
            fill(disk, model, seed=number, count=10, unit=4096)
    return paths, bytes(model)


def test_a_second_writer_is_refused_until_the_first_is_killed(
    chain: tuple[list[Path], bytes],
) -> None:
    (child, parent), model = chain
    other = parent.with_name("other.vhd")
    other.write_bytes(parent.read_bytes())
    works: dict[Path, list[Callable[[], object]]] = {
        child: [
            lambda: util().set_hidden(child, True),
            lambda: util().resize(child, 2 * SIZE),
            lambda: util().repair(child),
            lambda: util().set_parent(child, ref(other)),
            lambda: open_disk([child, parent]),
        ],
        parent: [
            lambda: util().coalesce([ref(child), ref(parent)], 1),
            lambda: util().repair(parent),
        ],
    }
    for path, attempts in works.items():
        before = path.read_bytes()
        with held(path) as first:
            for attempt in attempts:
                with pytest.raises(ImageBusy, match=r"has it open for writing"):
                    attempt()
            assert path.read_bytes() == before
            # Readers are let in.
            assert util().info(path).virtual_size == SIZE
            assert util().check(path).clean
            assert content([child, parent]) == model
            first.send_signal(signal.SIGKILL)
            first.wait()
            for attempt in attempts[:1]:
                attempt()
    assert content([child, parent]) == model
    assert Libvhdi().content([child, parent]) == model
    assert util().check(child).clean


def test_a_raw_target_has_one_writer_too(tmp_path: Path) -> None:
    raw, child = tmp_path / "base.raw", tmp_path / "child.vhd"
    before = random.Random(5).randbytes(SIZE)
    raw.write_bytes(before)
    base = ImageRef(raw, "raw")
    util().snapshot(child, base, SIZE)
    with closing(open_file(child, Access.WRITE)):
        pass
    with held(raw), pytest.raises(ImageBusy):
        util().coalesce([ref(child), base], 1)
    assert raw.read_bytes() == before
    util().coalesce([ref(child), base], 1)
    assert raw.read_bytes() == before


def test_the_lock_stays_with_the_file_when_it_is_renamed(chain: tuple[list[Path], bytes]) -> None:
    (child, _), _ = chain
    renamed = child.with_name("renamed.vhd")
    with held(child):
        child.rename(renamed)
        with pytest.raises(ImageBusy, match="renamed"):
            util().set_hidden(renamed, True)


def test_a_second_descriptor_keeps_the_lock(chain: tuple[list[Path], bytes]) -> None:
    (child, _), _ = chain
    first = open_file(child, Access.WRITE)
    second = first.again(child)
    first.close()
    first.close()
    with pytest.raises(ImageBusy):
        open_file(child, Access.WRITE)
    assert second.identity == (child.stat().st_dev, child.stat().st_ino)
    second.close()
    open_file(child, Access.WRITE).close()
