"""The leaf of a served disk has one writer."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageBusy
from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath
from sm.errors import SmError
from sm.owner import start_time
from tests.datapath.clients import content
from tests.datapath.vhd_nbd.chains import (
    DISK,
    SIZE,
    UTIL,
    chain_of,
    check,
    image,
    independent_content,
)


@pytest.fixture
def datapath(tmp_path: Path) -> Iterator[VhdNbdDatapath]:
    """A datapath whose process ends with the test."""
    datapath = VhdNbdDatapath(tmp_path / "run")
    yield datapath
    datapath.close(DISK)


def test_one_writer(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    chain, _ = chain_of(tmp_path, "a", "b")
    datapath.open(DISK, chain, read_only=False)
    other = VhdNbdDatapath(tmp_path / "other")
    with pytest.raises(SmError, match="another process has it open for writing"):
        other.open(DISK, chain, read_only=False)
    datapath.close(DISK)
    other.open(DISK, chain, read_only=False)
    other.close(DISK)


def test_nobody_changes_a_leaf_that_is_served(datapath: VhdNbdDatapath, tmp_path: Path) -> None:
    """Also after a relink of it; what was the leaf before a snapshot is free."""
    chain, model = chain_of(tmp_path, "a", "b", "c")
    leaf, middle, below = chain
    endpoint = datapath.open(DISK, chain, read_only=False)
    UTIL.coalesce([middle, below], 1)
    busy(leaf)
    datapath.refresh(DISK, [leaf, below])
    busy(leaf)
    link = UTIL.info(leaf.path).parent
    assert link is not None
    assert link.name == below.path.name
    base = image(tmp_path, "base")
    leaf.path.rename(base.path)
    busy(base)
    UTIL.snapshot(leaf.path, base, SIZE)
    datapath.refresh(DISK, [leaf, base, below])
    UTIL.set_hidden(base.path, True)
    busy(leaf)
    assert content(endpoint.nbd, SIZE) == model
    os.kill(endpoint.pid, signal.SIGKILL)
    while start_time(endpoint.pid) is not None:
        time.sleep(0.002)
    UTIL.set_hidden(leaf.path, True)
    check([leaf, base, below])
    assert independent_content([leaf, base, below]) == model


def busy(ref: ImageRef) -> None:
    """Nobody else gets to write to it."""
    with pytest.raises(ImageBusy):
        UTIL.set_hidden(ref.path, True)
