"""Minors, as tap-ctl takes and frees them."""

from __future__ import annotations

import fcntl
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from sm.datapath.tapdisk import minors
from sm.datapath.tapdisk.minors import Minors
from sm.errors import Busy


def test_the_smallest_that_is_missing(tmp_path: Path) -> None:
    taken = Minors(tmp_path / "tapdisk")
    assert [taken.allocate("a"), taken.allocate("b"), taken.allocate("a")] == [0, 1, 2]
    assert taken.owned("a") == [0, 2]
    taken.free(1)
    taken.free(1)
    assert taken.allocate("c") == 1
    assert (tmp_path / "tapdisk").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "tapdisk" / "tapdisk-1").stat().st_mode & 0o777 == 0o600
    assert Minors(tmp_path / "none").owned("a") == []


def test_nobody_gets_the_same(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: Minors(tmp_path).allocate("x"), range(64)))
    assert sorted(found) == list(range(64))


def test_attached_ones_are_not_freed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minors, "RELEASE_SECONDS", 0.05)
    taken = Minors(tmp_path)
    minor = taken.allocate("a")
    with (tmp_path / f"tapdisk-{minor}").open("rb") as marker:
        fcntl.flock(marker, fcntl.LOCK_EX)
        with pytest.raises(Busy, match="still attached"):
            taken.free(minor)
    taken.free(minor)
    assert taken.owned("a") == []


def test_a_locked_folder_is_waited_for_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(minors, "LOCK_SECONDS", 0.05)
    descriptor = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    with pytest.raises(Busy, match="is locked"):
        Minors(tmp_path).allocate("a")
    os.close(descriptor)
    assert Minors(tmp_path).allocate("a") == 0
