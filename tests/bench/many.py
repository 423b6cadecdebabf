"""A repository of 1,000 disks: one scan, and recovery with a journal entry for each of some merges.

The limit of a scan is opening each file once and reading its first bytes.
"""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

from sm.cowutil.base import ImageRef
from sm.cowutil.registry import Formats
from sm.gc.collector import Collector
from sm.process import run as run_tool
from sm.repository import Repository
from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop
from tests.support.site import MIB, Site

COUNT = 1000
ENTRIES = 100


def run(workshop: Workshop) -> list[Row]:
    """Scan and recovery of an SR of so many disks."""
    site = Site(workshop.folder / "many")
    sr = site.create_sr()
    repository = site.repository(sr)
    folder = repository.store.path(str(uuid.uuid4()), "qcow2").parent
    _fill(folder)
    site.sm("sr", "scan", sr)

    def opened() -> None:
        for path in folder.glob("*.qcow2"):
            descriptor = os.open(path, os.O_RDONLY)
            os.pread(descriptor, 4096, 0)
            os.fstat(descriptor)
            os.close(descriptor)

    taken = in_turn({"ours": repository.scan, "open": opened})
    interrupted = _interrupt(repository)
    began = time.perf_counter()
    collector = Collector(repository)
    with collector.alone():
        collector.recover()
    recovered = (time.perf_counter() - began) * 1000
    assert repository.journal.entries() == []
    what = f"{COUNT} disks"
    return [
        Row("many", f"{what}, scan", taken["ours"], "open and read each", taken["open"]),
        Row(
            "many",
            f"{what}, recovery of {interrupted} merges",
            recovered,
            "5 seconds",
            5000.0,
            Target.within(1.0),
        ),
    ]


def _fill(folder: Path) -> None:
    """Pairs of a hidden base and its child, as copies of one pair but for the name of the base."""
    qcow2 = Formats(run_tool).cow("qcow2")
    base = folder / f"{uuid.uuid4()}.qcow2"
    qcow2.create(base, 8 * MIB)
    qcow2.set_hidden(base, True)
    child = folder / f"{uuid.uuid4()}.qcow2"
    qcow2.snapshot(child, ImageRef(base, "qcow2"), 8 * MIB)
    parent, leaf = base.read_bytes(), child.read_bytes()
    for _ in range(COUNT // 2 - 1):
        names = [f"{uuid.uuid4()}.qcow2" for _ in range(2)]
        (folder / names[0]).write_bytes(parent)
        (folder / names[1]).write_bytes(leaf.replace(base.name.encode(), names[0].encode()))


def _interrupt(repository: Repository) -> int:
    """Leave the entries of merges that had only begun; their owner is a process that has ended."""
    forest = repository.scan().forest
    leaves = [node for node in forest if node.parent is not None][:ENTRIES]
    for node in leaves:
        repository.journal.open(
            "leaf-coalesce",
            node.uuid,
            "copy",
            format="qcow2",
            into=node.parent,
            images=[node.parent],
            below=None,
            fingerprint=repository.store.fingerprint(node.uuid, "qcow2"),
        )
    return len(leaves)
