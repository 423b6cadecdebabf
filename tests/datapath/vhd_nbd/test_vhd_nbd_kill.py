"""The process killed at random under load: every flushed write is there afterwards."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from sm.datapath.vhd_nbd.datapath import VhdNbdDatapath
from sm.nbd.protocol import Command, CommandFlag
from sm.owner import start_time
from tests.datapath.clients import content
from tests.datapath.vhd_nbd.chains import DISK, PAGE, SIZE, chain_of, check, independent_content
from tests.nbd.client import Gone, connect
from tests.support.patience import patient

pytestmark = pytest.mark.one_in(2)

ROUNDS = 12


class Load:
    """Writes pages, each with its number and version in it, and flushes now and then.

    `sure`: the version of each page that a flush has confirmed; `tried`: the last one sent.
    """

    def __init__(self, uri: str | None, pages: range, seed: int) -> None:
        self._client = connect(uri)
        self._pages = pages
        self._dice = random.Random(seed)
        self.tried: dict[int, int] = {}
        self.sure: dict[int, int] = {}
        self.flushes = 0
        self.thread = threading.Thread(target=self._work)

    def _work(self) -> None:
        with suppress(Gone):
            while True:
                for _ in range(self._dice.randrange(1, 30)):
                    self._write(flags=0)
                if self._dice.random() < 0.3:
                    page = self._write(flags=CommandFlag.FUA)
                    self.sure[page] = self.tried[page]
                before = dict(self.tried)
                assert self._client.do(Command.FLUSH) == 0
                self.sure.update(before)
                self.flushes += 1

    def _write(self, flags: int) -> int:
        page = self._dice.choice(self._pages)
        self.tried[page] = self.tried.get(page, 0) + 1
        data = pattern(page, self.tried[page])
        assert self._client.do(Command.WRITE, page * PAGE, data=data, flags=flags) == 0
        return page


def pattern(page: int, version: int) -> bytes:
    """What a page holds in a version; unlike the random bytes that were there before."""
    return b"page %8d version %8d " % (page, version) * 132 + bytes(PAGE - 31 * 132)


@pytest.fixture
def datapath(tmp_path: Path) -> Iterator[VhdNbdDatapath]:
    """A datapath whose process ends with the test."""
    datapath = VhdNbdDatapath(tmp_path / "run")
    yield datapath
    datapath.close(DISK)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(ROUNDS))
def test_killed_under_load(datapath: VhdNbdDatapath, tmp_path: Path, seed: int) -> None:
    dice = random.Random(seed)
    chain, model = chain_of(tmp_path, "a", "b", "c")
    endpoint = datapath.open(DISK, chain, read_only=False)
    half = SIZE // PAGE // 2
    loads = [
        Load(endpoint.nbd, range(half), seed),
        Load(endpoint.nbd, range(half, 2 * half), seed + 100),
    ]
    for load in loads:
        load.thread.start()
    if seed % 3 == 0:
        datapath.refresh(DISK, chain)
    time.sleep(dice.random() * 0.5)
    os.kill(endpoint.pid, signal.SIGKILL)
    for load in loads:
        load.thread.join(patient(30))
        assert not load.thread.is_alive()
    while start_time(endpoint.pid) is not None:
        time.sleep(0.002)
    check(chain)
    reopened = datapath.open(DISK, chain, read_only=False)
    found = content(reopened.nbd, SIZE)
    for load in loads:
        for page, last in load.tried.items():
            piece = found[page * PAGE : (page + 1) * PAGE]
            first = load.sure.get(page, 0)
            accepted = {pattern(page, version) for version in range(max(first, 1), last + 1)}
            if first == 0:
                accepted.add(bytes(model[page * PAGE : (page + 1) * PAGE]))
            sectors_of_each(piece, accepted, page)
    untouched = set(range(2 * half)) - loads[0].tried.keys() - loads[1].tried.keys()
    for page in untouched:
        assert found[page * PAGE : (page + 1) * PAGE] == model[page * PAGE : (page + 1) * PAGE]
    datapath.close(DISK)
    assert independent_content(chain) == found
    check(chain)


def sectors_of_each(piece: bytes, accepted: set[bytes], page: int) -> None:
    """Each sector is of one of the versions; a page may be torn between them by a kill."""
    for at in range(0, PAGE, 512):
        assert piece[at : at + 512] in {each[at : at + 512] for each in accepted}, (page, at)
