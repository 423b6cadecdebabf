"""Dropping an image's data: what lies below shows through, at any cut at most later."""

from __future__ import annotations

import errno
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from sm.cowutil.vhd.check import examine
from tests.cowutil.vhd.test_vhd_kill import Countdown, Killed
from tests.cowutil.vhd.vhd_power import Recorder
from tests.cowutil.vhd.vhd_support import (
    MIB,
    Libvhdi,
    MemoryFile,
    content,
    fill,
    memory_content,
    open_disk,
    qemu_content,
    ref,
    util,
)

pytestmark = pytest.mark.usefixtures("memory_given_back")

SIZE = 12 * MIB
NOW = 2_000_000_000.0


@pytest.fixture
def chain(tmp_path: Path) -> tuple[list[Path], bytes, bytes]:
    """Child and parent, both with data; what the child and what the parent read as."""
    child, parent = tmp_path / "child.vhd", tmp_path / "parent.vhd"
    util().create(parent, SIZE)
    model = bytearray(SIZE)
    with closing(open_disk([parent])) as disk:
        fill(disk, model, seed=1, count=8, unit=4096)
    below = bytes(model)
    util().snapshot(child, ref(parent), SIZE)
    with closing(open_disk([child, parent])) as disk:
        disk.pwrite(0, b"\x05" * 2 * MIB)  # a whole block, which the batmap knows
        model[: 2 * MIB] = b"\x05" * 2 * MIB
        fill(disk, model, seed=2, count=8, unit=4096)
    return [child, parent], bytes(model), below


def test_the_parent_shows_through(chain: tuple[list[Path], bytes, bytes]) -> None:
    (child, parent), model, below = chain
    before, link, length = util().info(child), util().info(child).parent, child.stat().st_size
    assert content([child, parent]) == model != below
    util().kill_data(child)
    assert content([child, parent]) == Libvhdi().content([child, parent]) == below
    assert util().info(child) == before
    assert util().info(child).parent == link
    assert util().allocated_size(child) == 0
    # What is left is the metadata, with the hole for larger tables.
    assert child.stat().st_size < 5 * MIB < length
    assert child.stat().st_blocks * 512 < 64 << 10
    assert util().check(child).clean
    util().kill_data(child)
    with closing(open_disk([child, parent])) as disk:
        disk.pwrite(4 * MIB, b"\x07" * 8192)
    after = below[: 4 * MIB] + b"\x07" * 8192 + below[4 * MIB + 8192 :]
    assert content([child, parent]) == Libvhdi().content([child, parent]) == after
    util().kill_data(parent)
    assert qemu_content(parent) == content([parent]) == bytes(SIZE)


def test_the_power_may_be_cut(chain: tuple[list[Path], bytes, bytes]) -> None:
    """Each block is still there or gone as a whole."""
    (child, parent), model, below = chain
    recorder = Recorder()
    recorder.load(child, parent)
    before = recorder.watch(child)
    util(recorder.open).kill_data(child)
    states = set()
    for cut in recorder.cuts(before, seed=3):
        report = examine(MemoryFile(cut.content), NOW)
        assert not report.corruptions
        seen = memory_content(MemoryFile(cut.content), MemoryFile(recorder.files[parent]))
        old, new, now = (
            np.frombuffer(data, dtype=np.uint8).reshape(-1, 2 * MIB)
            for data in (model, below, seen)
        )
        assert ((now == old).all(axis=1) | (now == new).all(axis=1)).all()
        states.add(seen)
    assert {model, below} <= states


@pytest.mark.parametrize(
    "error", [Killed, lambda: OSError(errno.ENOSPC, "full"), lambda: OSError(errno.EIO, "broken")]
)
def test_every_effect_may_be_the_last(
    chain: tuple[list[Path], bytes, bytes], error: Callable[[], BaseException]
) -> None:
    (child, parent), _, below = chain
    whole = child.read_bytes()
    for number in range(1, 100):
        child.write_bytes(whole)
        countdown = Countdown(number, error)
        try:
            util(countdown.open).kill_data(child)
        except (Killed, OSError):
            assert not util().check(child).corruptions
            util().kill_data(child)
            assert content([child, parent]) == below
            continue
        assert countdown.left > 0
        assert number > 4
        return
    pytest.fail("it never completes")
