"""`sm-gc` and datapaths killed again and again, while guests write and snapshots come and go.

The service with its workers runs all the time; it is started again as systemd would, and disks are
activated again as their users would.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.gc.state.status import State
from sm.owner import Owner
from tests.datapath.clients import content
from tests.gc.running import GC, status
from tests.soak.durable_writer import DurableWriter
from tests.support import invariants
from tests.support.patience import patient, until
from tests.support.site import MIB, Refused, Site
from tests.support.tiers import SEED, rounds

pytestmark = pytest.mark.world

SIZE = 16 * MIB
FORMATS = ("qcow2", "vhd", "qcow2", "vhd")
RATE = "8"
"""In MiB per second, so that most merges last long enough to be met."""

KILLS_IN_A_ROUND = 5
"""Between two times of rest, when everything is compared."""

LONGEST_WAIT = patient(1.5)
"""Seconds for the collector to begin with a copy, before it is killed whatever it does."""

MOST_SNAPSHOTS = 3


class Guest:
    """An active disk with a client that writes to it all the time, and its snapshots."""

    def __init__(self, site: Site, sr: str, image_format: str, dice: random.Random) -> None:
        self.site = site
        self.sr = sr
        self.dice = dice
        self.disk = site.create_vdi(sr, image_format, SIZE)
        self.snapshots: dict[str, bytes] = {}
        self.writer = self._begin(bytes(SIZE))

    def make_work(self) -> None:
        """Take a snapshot; delete one of those before, if there are enough."""
        try:
            with self.writer.still() as data:
                self.snapshots[self.site.snapshot(self.disk)] = data
            while len(self.snapshots) > MOST_SNAPSHOTS:
                doomed = self.dice.choice(sorted(self.snapshots)[:-1])
                self.site.delete(doomed)
                del self.snapshots[doomed]
        except Refused as refused:
            # A merge that was cut short is not settled yet; nothing was changed.
            assert refused.error["name"] == "EGAIN", refused.error

    def kill_datapath(self) -> None:
        """Kill the process that serves the disk; activate it again, and compare all of it."""
        datapaths = Datapaths(self.site.repository(self.sr).settings)
        disk = Disk(self.sr, self.disk)
        found = datapaths.find(disk)
        assert found is not None
        os.kill(found[1].endpoint.pid, signal.SIGKILL)
        self.writer.cut_off()
        # Its clients know before it is gone, and an activation in between finds it still alive.
        until(lambda: datapaths.find(disk) is None, "the end of the process")
        uri = self.site.activate(self.disk)
        self.writer.check(content(uri, SIZE))
        self.writer = self._begin(bytes(self.writer.data), uri)

    def compare(self) -> None:
        """The disk reads as it was written."""
        with self.writer.still() as data:
            assert content(self.writer.uri, SIZE) == data

    def end(self) -> dict[str, bytes]:
        """Stop writing; returns what the disk and its snapshots must read as."""
        self.writer.stop()
        self.site.deactivate(self.disk)
        return {**self.snapshots, self.disk: bytes(self.writer.data)}

    def _begin(self, data: bytes, uri: str | None = None) -> DurableWriter:
        writer = DurableWriter(uri or self.site.activate(self.disk), data, self.dice.randrange(99))
        writer.__enter__()
        return writer


class Service:
    """`sm-gc` for the host, which is started again whenever it was killed."""

    def __init__(self, site: Site, sr: str) -> None:
        self.site = site
        self.sr = sr
        self._process = self._start()

    @classmethod
    @contextmanager
    def running(cls, site: Site, sr: str) -> Iterator[Service]:
        """A service for the block, which ends with it as it should."""
        service = cls(site, sr)
        try:
            yield service
            service._process.terminate()
            assert service._process.wait(patient(30)) == 0
        finally:
            service._process.kill()
            service._process.wait()

    @property
    def worker(self) -> int | None:
        """The process that collects the SR; None while there is none."""
        found = status(self.site, self.sr)
        return None if found.state is State.STOPPED else Owner.parse(found.owner).pid

    @property
    def works(self) -> bool:
        """Whether it is at work at this moment."""
        return bool(status(self.site, self.sr).jobs)

    def kill_worker(self) -> bool:
        """Kill the worker; whether there was one."""
        pid = self.worker
        if pid is not None:
            os.kill(pid, signal.SIGKILL)
        return pid is not None

    def kill_supervisor(self) -> None:
        """Kill the supervisor, and start another at once: the worker may still be ending."""
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        log = (self.site.folder / "sm-gc.log").open("ab")
        with log:
            return subprocess.Popen(
                GC, env=self.site.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )


def kill(service: Service, guest: Guest, victim: str) -> bool:
    """Kill one; whether the collector was at work."""
    busy = service.works
    if victim == "datapath":
        guest.kill_datapath()
    elif victim == "supervisor":
        service.kill_supervisor()
    elif victim == "both" or not service.kill_worker():
        # A worker that died twice in a row is waited with, unless its supervisor is a new one.
        service.kill_worker()
        service.kill_supervisor()
    return busy


def rest(site: Site, sr: str, guests: list[Guest]) -> None:
    """Let the collector do all that there is to do; then nothing is left, and every disk is right.

    Raises when it does not come to rest.
    """
    site.sm("gc", "limit", "--sr", sr, "--rate-mib", "none")
    for _ in range(20):
        if not site.sm("gc", "run", "--sr", sr)["done"]:
            break
    else:
        raise AssertionError("the collector does not come to rest")
    assert site.repository(sr).journal.entries() == []
    for guest in guests:
        guest.compare()
    site.sm("gc", "limit", "--sr", sr, "--rate-mib", RATE)


def test_killed_service_and_datapaths(tmp_path: Path) -> None:
    dice = random.Random(SEED)
    print(f"SM_SEED={SEED}")
    site = Site(tmp_path)
    site.configure(gc_quiet_seconds=0)
    sr = site.create_sr()
    guests = [Guest(site, sr, image_format, dice) for image_format in FORMATS]
    killed: Counter[str] = Counter()
    at_work: Counter[str] = Counter()
    with Service.running(site, sr) as service:
        for _ in range(rounds(1)):
            rest(site, sr, guests)
            for _ in range(KILLS_IN_A_ROUND):
                for guest in dice.sample(guests, 2):
                    guest.make_work()
                deadline = time.monotonic() + LONGEST_WAIT
                while not service.works and time.monotonic() < deadline:
                    time.sleep(0.02)
                time.sleep(dice.uniform(0, 0.3))
                victim = dice.choice(["worker", "supervisor", "both", "datapath"])
                killed[victim] += 1
                at_work[victim] += kill(service, dice.choice(guests), victim)
        until(lambda: service.worker, "a worker")
        rest(site, sr, guests)
    disks: dict[str, bytes] = {}
    for guest in guests:
        disks |= guest.end()
    invariants.check(site, sr, disks)
    print(f"{killed.total()} kills: {dict(killed)}; while the collector worked: {dict(at_work)}")
    assert at_work.total() or rounds(1) == 1
