"""`sm gc status`: what a worker says, what is known without one, and both watched."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from sm.cli.explain import reasons
from sm.cli.times import show_seconds
from sm.gc.plan.planner import Coalesce, Delete, LeafCoalesce, Plan, Waiting
from sm.gc.state.ledger import Ledger
from sm.gc.state.status import Delayed, State
from sm.gc.views.overview import delayed
from tests.support import guest, worker
from tests.support.patience import patient
from tests.support.site import MIB, Site

WATCH = (sys.executable, "-m", "sm.cli.main", "gc", "status", "--watch")


def _garbage(site: Site) -> tuple[str, str, str, str]:
    """An SR, its disk, the base of that, and a deleted snapshot."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    snapshot = site.snapshot(disk)
    guest.write(site.chain(sr, disk), MIB, MIB, 8)
    site.delete(snapshot)
    return sr, disk, site.sm("vdi", "show", disk)["parent"], snapshot


def test_without_a_worker_the_plan_is_made_here(site: Site) -> None:
    sr, disk, base, snapshot = _garbage(site)
    (row,) = site.sm("gc", "status")
    assert (row["uuid"], row["state"], row["worker"], row["jobs"]) == (sr, "stopped", None, [])
    assert row["planned"] == [
        {"action": "delete", "images": [snapshot]},
        {"action": "leaf-coalesce", "images": [base], "into": base, "leaf": disk},
    ]
    assert {(each["image"], each["code"]) for each in row["waiting"]} == {
        (snapshot, "stopped"),
        (disk, "stopped"),
    }
    assert all(each["text"] == reasons()["stopped"]["text"] for each in row["waiting"])
    _, text = site.run("gc", "status")
    assert f"{sr} store: stopped" in text
    assert f"planned: delete {snapshot[:8]}" in text


def test_without_a_worker_a_failure_says_when_it_is_tried_again(site: Site) -> None:
    sr, disk, _, _ = _garbage(site)
    failure = Ledger(site.root / "gc.db").failed(sr, disk, "no-space", "9 bytes lack", time.time())
    (row,) = site.sm("gc", "status", "--sr", sr)
    (found,) = [each for each in row["waiting"] if each["image"] == disk]
    assert (found["code"], found["reason"]) == ("no-space", "9 bytes lack")
    assert found["next_attempt"] == failure.next_attempt


def test_a_living_worker_speaks_for_itself(site: Site) -> None:
    sr, disk, base, _ = _garbage(site)
    waits = Delayed(disk, "no-space", "too little", time.time() + 60)
    said = worker.working(sr, worker.job((disk,), base), waiting=(waits,))
    said.write(worker.run_folder(site.root))
    (row,) = site.sm("gc", "status")
    assert (row["state"], row["worker"]["pid"], row["planned"]) == ("working", os.getpid(), [])
    (job,) = row["jobs"]
    assert (job["percent"], job["seconds_left"], job["bytes_done"]) == (25.0, 15.0, 50)
    assert row["waiting"][0]["next_attempt"] == waits.next_attempt
    _, text = site.run("gc", "status")
    assert f"running: coalesce {disk[:8]} into {base[:8]}: 25 %, 50 B of 200 B, 10 B/s" in text
    assert "15 s left" in text
    assert "no-space: too little (next attempt " in text

    replace(said, state=State.PAUSED, jobs=(), detail="by ann until noon").write(
        worker.run_folder(site.root)
    )
    _, text = site.run("gc", "status")
    assert re.search(r"store: paused since [-0-9: ]+, by ann until noon", text)


def test_a_dead_worker_is_not_believed(site: Site) -> None:
    sr, disk, base, _ = _garbage(site)
    worker.dead(worker.working(sr, worker.job((disk,), base))).write(worker.run_folder(site.root))
    (row,) = site.sm("gc", "status")
    assert (row["state"], row["jobs"], len(row["planned"])) == ("stopped", [], 2)


def test_a_detached_sr(site: Site) -> None:
    sr = site.create_sr()
    site.sm("sr", "detach", sr)
    (row,) = site.sm("gc", "status")
    assert (row["state"], row["planned"], row["waiting"]) == ("detached", [], [])


def test_watched_as_json_each_change_is_a_line(site: Site) -> None:
    sr, disk, base, _ = _garbage(site)
    with subprocess.Popen(
        [*WATCH, "--json"], env=site.environment, stdout=subprocess.PIPE, text=True
    ) as watching:
        assert watching.stdout is not None
        try:
            assert json.loads(watching.stdout.readline())[0]["state"] == "stopped"
            said = worker.working(sr, worker.job((disk,), base))
            said.write(worker.run_folder(site.root))
            (row,) = json.loads(watching.stdout.readline())
            assert (row["state"], row["jobs"][0]["bytes_done"]) == ("working", 50)
            replace(said, jobs=(replace(said.jobs[0], bytes_done=150),)).write(
                worker.run_folder(site.root)
            )
            (row,) = json.loads(watching.stdout.readline())
            assert row["jobs"][0]["percent"] == 75.0
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(patient(10)) == 0
        assert watching.stdout.read() == ""


def _read_until(descriptor: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        ready, _, _ = select.select([descriptor], [], [], patient(30))
        assert ready, f"not seen in time: {wanted!r} in {seen!r}"
        seen += os.read(descriptor, 65536)
    return seen


def test_watched_on_a_terminal_it_is_redrawn(site: Site) -> None:
    sr, disk, base, _ = _garbage(site)
    ours, theirs = pty.openpty()
    environment = {**site.environment, "TERM": "xterm", "COLUMNS": "200", "LINES": "50"}
    with subprocess.Popen(WATCH, env=environment, stdin=theirs, stdout=theirs) as watching:
        os.close(theirs)
        try:
            _read_until(ours, b"stopped")
            said = worker.working(sr, worker.job((disk,), base))
            said.write(worker.run_folder(site.root))
            assert b"\x1b[" in _read_until(ours, b"25 %")
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(patient(10)) == 0
    os.close(ours)


def test_every_image_of_a_plan_has_its_reason() -> None:
    plan = Plan(
        (Delete(("a", "b")), Coalesce(("c", "d"), "e"), LeafCoalesce("f", (), "g")),
        (Waiting("h", "held", "by somebody"),),
    )
    assert [(each.image, each.code) for each in delayed(plan, {}, 0.0)] == [
        ("h", "held"),
        *((image, "stopped") for image in "abcdf"),
    ]


def test_a_failure_counts_until_its_next_attempt(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "gc.db")
    failure = ledger.failed("sr", "c", "failed", "it broke", 100.0)
    plan = Plan((Coalesce(("c", "d"), "e"),), ())
    before = delayed(plan, ledger.failures("sr"), failure.next_attempt - 1)
    assert [(each.code, each.next_attempt) for each in before] == [
        ("failed", failure.next_attempt)
    ] * 2
    after = delayed(plan, ledger.failures("sr"), failure.next_attempt)
    assert [(each.code, each.next_attempt) for each in after] == [("stopped", None)] * 2


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.04, "0.0 s"),
        (9.9, "9.9 s"),
        (9.96, "10 s"),
        (60, "1 min"),
        (125, "2 min 5 s"),
        (7500, "2 h 5 min"),
        (86400 * 3 + 7200, "3 d 2 h"),
    ],
)
def test_durations(seconds: float, text: str) -> None:
    assert show_seconds(seconds) == text


def test_every_state_is_explained(site: Site) -> None:
    for state in State:
        assert site.sm("explain", state.value)["advice"]
