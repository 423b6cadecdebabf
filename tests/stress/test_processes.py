"""Three processes at once on one SR: all invariants hold when they have ended."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from tests.stress.worker import BLOCK
from tests.support import invariants
from tests.support.site import Site

SECONDS = 30
PROCESSES = 3
REPOSITORY = Path(__file__).resolve().parents[2]


def test_three_processes_create_snapshot_delete_and_collect(site: Site) -> None:
    sr = site.create_sr()
    journals = [site.folder / f"journal-{number}" for number in range(PROCESSES)]
    workers = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "tests.stress.worker"),
                *(str(site.folder), sr, str(SECONDS), str(number), str(journal)),
            ],
            env=site.environment,
            cwd=REPOSITORY,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number, journal in enumerate(journals)
    ]
    for worker in workers:
        _, said = worker.communicate(timeout=SECONDS * 4)
        assert worker.returncode == 0, said

    disks: dict[str, bytes] = {}
    steps: list[str] = []
    for journal in journals:
        lines = [json.loads(line) for line in journal.read_text().splitlines()]
        steps += [line["step"] for line in lines]
        for uuid, blocks in lines[-1]["disks"].items():
            disks[uuid] = b"".join(bytes([byte]) * BLOCK for byte in blocks)
    assert {"create", "snapshot", "write", "delete", "collect"} <= set(steps)
    invariants.check(site, sr, disks)
