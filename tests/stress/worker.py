"""One administrator among several on one SR: creates, snapshots, writes, deletes, collects.

usage: worker.py FOLDER SR SECONDS SEED JOURNAL ORDERS

On SIGUSR1 it tells where its threads stand. ORDERS gets the orders in which it takes locks. Each
finished change is one line of JSON in JOURNAL, written before the next is begun: what disks
there are, and what each must read as (one byte value for each 64 KiB block).
"""

from __future__ import annotations

import faulthandler
import json
import random
import signal
import sys
import time
from pathlib import Path

from sm import config
from sm.errors import SmError
from sm.gc.collector import Collector
from sm.pool.open import open_pool
from sm.repository import Repository
from tests.datapath.clients import qemu_io
from tests.support import lock_order
from tests.support.site import Refused, Site

BLOCK = 64 << 10
BLOCKS = 32

LEAST_STEPS = 40
"""However slow the machine is: so many that each kind of them is among those of three processes."""


class Worker:
    """Owns its disks; shares the SR, its lock and its collector with the others."""

    def __init__(self, site: Site, sr: str, seed: int, journal: Path) -> None:
        self.site = site
        self.sr = sr
        self.random = random.Random(seed)
        self.journal = journal
        self.disks: dict[str, list[int]] = {}
        self.writable: set[str] = set()

    def step(self) -> str:
        """One random change."""
        choices = ["create", "collect"]
        if self.disks:
            choices += ["snapshot"] * 3 + ["write"] * 4 + ["clone", "delete", "delete"]
            choices += ["resize", "scan", "examine", "move"]
        if len(self.disks) > 8:
            choices += ["delete"] * 6
        name = self.random.choice(choices)
        getattr(self, name)()
        with self.journal.open("a") as file:
            file.write(json.dumps({"step": name, "disks": self.disks}) + "\n")
        return name

    def create(self) -> None:
        """A new disk."""
        image_format = self.random.choice(["qcow2", "vhd"])
        uuid = self.site.create_vdi(self.sr, image_format, BLOCK * BLOCKS)
        self.disks[uuid] = [0] * BLOCKS
        self.writable.add(uuid)

    def snapshot(self) -> None:
        """A snapshot of a disk."""
        source = self.random.choice(sorted(self.disks))
        self.disks[self.site.snapshot(source)] = list(self.disks[source])

    def clone(self) -> None:
        """A writable copy of a disk."""
        source = self.random.choice(sorted(self.disks))
        copy = self.site.clone(source)
        self.disks[copy] = list(self.disks[source])
        self.writable.add(copy)

    def write(self) -> None:
        """The guest of a disk starts, writes a few blocks, and stops."""
        if not self.writable:
            return
        disk = self.random.choice(sorted(self.writable))
        try:
            uri = self.site.activate(disk)
        except Refused as refused:
            # Its chain is being merged and that took too long; nothing was changed.
            assert refused.error["name"] == "EGAIN", refused.error
            return
        first = self.random.randrange(BLOCKS)
        count = self.random.randint(1, min(4, BLOCKS - first))
        byte = self.random.randint(1, 255)
        qemu_io(uri, f"write -P {byte} {first * BLOCK} {count * BLOCK}")
        self.disks[disk][first : first + count] = [byte] * count
        self.site.deactivate(disk)

    def delete(self) -> None:
        """Delete a disk."""
        disk = self.random.choice(sorted(self.disks))
        self.site.delete(disk)
        del self.disks[disk]
        self.writable.discard(disk)

    def resize(self) -> None:
        """Let a disk grow, but not for ever."""
        disk = self.random.choice(sorted(self.disks))
        blocks = self.disks[disk]
        if disk in self.writable and len(blocks) < 3 * BLOCKS:
            size = (len(blocks) + BLOCKS) * BLOCK
            self.site.sm("vdi", "resize", disk, "--size", str(size))
            self.disks[disk] = [*blocks, *([0] * BLOCKS)]

    def scan(self) -> None:
        """Bring the records in line."""
        self.site.sm("sr", "scan", self.sr)

    def examine(self) -> None:
        """Ask the doctor; with others at work he may find something, but he must not fail."""
        code, _ = self.site.run("--json", "doctor", "--sr", self.sr)
        assert code in (0, 4), f"the doctor ends with {code}"

    def move(self) -> None:
        """Attach an SR of our own, or detach it."""
        name = f"own-{self.journal.name}"
        known = {sr["name"]: sr for sr in self.site.sm("sr", "list")}
        if name not in known:
            self.site.create_sr(name)
        else:
            verb = "detach" if known[name]["attached"] else "attach"
            self.site.sm("sr", verb, known[name]["uuid"])

    def collect(self) -> None:
        """Collect, unless another process does."""
        settings = config.load(self.site.root)
        repository = Repository.open(self.sr, settings, open_pool(settings, None))
        collector = Collector(repository)
        try:
            with repository.locks.hold("collector", self.sr, "stress", seconds=0.1):
                for _ in collector.run():
                    pass
        except SmError as error:
            assert error.code_name == "LockErr", error


def main() -> None:
    folder, sr, seconds, seed, journal, orders = sys.argv[1:]
    faulthandler.register(signal.SIGUSR1, all_threads=True)
    lock_order.record(Path(orders))
    worker = Worker(Site(Path(folder)), sr, int(seed), Path(journal))
    end, steps = time.monotonic() + float(seconds), 0
    while time.monotonic() < end or steps < LEAST_STEPS:
        steps += 1
        try:
            worker.step()
        except Refused as refused:
            # A disk whose chain is at work may be refused for now; anything else is a failure.
            assert refused.error["name"] == "EGAIN", refused.error


if __name__ == "__main__":
    main()
