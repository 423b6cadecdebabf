"""Several processes at once on one SR: nobody stands still, and all invariants hold at the end.

`SM_SECONDS` and `SM_PROCESSES` (2 to 8) make it longer and larger. Every process records in which
order it takes locks; all orders together must have no circle.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.stress.worker import BLOCK
from tests.support import invariants
from tests.support.lock_order import circle, orders
from tests.support.patience import patient
from tests.support.site import Site
from tests.support.tiers import SEED

pytestmark = pytest.mark.world

SECONDS = float(os.environ.get("SM_SECONDS", "15"))
PROCESSES = int(os.environ.get("SM_PROCESSES", "3"))
REPOSITORY = Path(__file__).resolve().parents[2]

STILL_SECONDS = patient(90)
"""No process may take longer for one step: every wait for a lock ends after 60."""


class Crowd:
    """Workers in processes of their own, each with a journal and a file of lock orders."""

    def __init__(self, site: Site, sr: str) -> None:
        self.journals = [site.folder / f"journal-{number}" for number in range(PROCESSES)]
        self.orders = [site.folder / f"orders-{number}" for number in range(PROCESSES)]
        self.output = [site.folder / f"output-{number}" for number in range(PROCESSES)]
        self.workers = [
            subprocess.Popen(
                [
                    *(sys.executable, "-m", "tests.stress.worker"),
                    *(str(site.folder), sr, str(SECONDS), str(SEED + number)),
                    *(str(self.journals[number]), str(self.orders[number])),
                ],
                env=site.environment,
                cwd=REPOSITORY,
                stderr=self.output[number].open("w"),
            )
            for number in range(PROCESSES)
        ]

    def watch(self) -> None:
        """Wait until all have ended; who makes no step in time must say where it stands."""
        moved = [time.monotonic()] * PROCESSES
        sizes = [-1] * PROCESSES
        while any(worker.poll() is None for worker in self.workers):
            time.sleep(0.2)
            for number, worker in enumerate(self.workers):
                journal = self.journals[number]
                size = journal.stat().st_size if journal.exists() else 0
                if size != sizes[number] or worker.poll() is not None:
                    sizes[number], moved[number] = size, time.monotonic()
                if time.monotonic() - moved[number] > STILL_SECONDS:
                    worker.send_signal(signal.SIGUSR1)
                    time.sleep(1)
                    for each in self.workers:
                        each.kill()
                    raise AssertionError(f"worker {number} stands still: {self.said(number)}")
        for number, worker in enumerate(self.workers):
            assert worker.returncode == 0, self.said(number)

    def said(self, number: int) -> str:
        """What a worker wrote to standard error, stacks included."""
        return self.output[number].read_text()


def test_processes_on_one_sr(site: Site) -> None:
    print(f"SM_SEED={SEED}")
    sr = site.create_sr()
    crowd = Crowd(site, sr)
    crowd.watch()

    disks: dict[str, bytes] = {}
    steps: list[str] = []
    for journal in crowd.journals:
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        steps += [line["step"] for line in lines]
        for uuid, blocks in lines[-1]["disks"].items():
            disks[uuid] = b"".join(bytes([byte]) * BLOCK for byte in blocks)
    print(f"{PROCESSES} processes, {len(steps)} steps in {SECONDS:g} s")
    assert {"create", "snapshot", "write", "delete", "collect"} <= set(steps)
    found = orders(crowd.orders)
    print("lock orders: " + ", ".join(f"{one} > {other}" for one, other in sorted(found)))
    assert ("vdi", "sr") in found
    assert circle(found) == []
    invariants.check(site, sr, disks)
