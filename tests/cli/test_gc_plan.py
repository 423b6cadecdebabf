"""`sm gc plan` and `sm gc history`."""

from __future__ import annotations

import pytest

from sm.gc.plan.costs import Cost, worst_moment
from sm.gc.state.ledger import FinishedJob, Ledger, Result
from tests.support import guest
from tests.support.site import MIB, Site


def _job(sr: str, number: int, **changed: object) -> FinishedJob:
    values: dict[str, object] = {
        "id": f"job-{number}",
        "sr": sr,
        "action": "coalesce",
        "images": ("aaaaaaaa-1", "bbbbbbbb-2"),
        "began": 1000.0 + number,
        "seconds": 2.0,
        "result": Result.DONE,
        "into": "cccccccc-3",
        "bytes_copied": MIB,
        "bytes_freed": 2 * MIB,
        **changed,
    }
    return FinishedJob(**values)  # type: ignore[arg-type]


def test_a_plan_tells_its_costs_and_they_come_true(site: Site, cow_format: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, cow_format)
    guest.write(site.chain(sr, disk), 0, 2 * MIB, 7)
    first = site.snapshot(disk)
    guest.write(site.chain(sr, disk), 2 * MIB, 2 * MIB, 8)
    second = site.snapshot(disk)
    guest.write(site.chain(sr, disk), 4 * MIB, 2 * MIB, 9)
    site.delete(first)
    site.delete(second)
    before = site.repository(sr).store
    used = sum(volume.used for volume in before.listing().volumes)

    (plan,) = site.sm("gc", "plan", "--sr", sr)
    assert [step["action"] for step in plan["planned"]] == ["delete", "leaf-coalesce"]
    assert (plan["bytes_per_second"], plan["seconds"]) == (None, None)
    assert plan["planned"][0]["seconds"] == 0
    assert plan["bytes_to_copy"] == 4 * MIB
    assert plan["bytes_needed"] >= 4 * MIB
    _, text = site.run("gc", "plan")
    assert "1. delete " in text
    assert "2. leaf-coalesce " in text
    assert "4 MiB to copy, time unknown" in text

    Ledger(site.root / "gc.db").finished(_job(sr, 1, bytes_copied=2 * MIB, seconds=1.0))
    (plan,) = site.sm("gc", "plan")
    assert (plan["bytes_per_second"], plan["seconds"]) == (2 * MIB, 2.0)

    done = site.sm("gc", "run", "--sr", sr)["done"]
    assert sum(step["bytes_copied"] for step in done) == plan["bytes_to_copy"]
    assert sum(step["bytes_freed"] for step in done) == plan["bytes_freed"]
    left = sum(volume.used for volume in before.listing().volumes)
    assert used - plan["bytes_freed"] <= left <= used - plan["bytes_freed"] + plan["bytes_needed"]
    (plan,) = site.sm("gc", "plan")
    assert (plan["planned"], plan["bytes_needed"]) == ([], 0)
    assert site.run("gc", "plan")[1] == "nothing to do\n"


@pytest.mark.parametrize(
    ("costs", "most"),
    [
        ([], 0),
        ([Cost(5, 7, 1)], 7),
        ([Cost(0, 0, 10), Cost(5, 7, 1)], 0),
        ([Cost(5, 7, 1), Cost(5, 3, 0), Cost(0, 0, 50), Cost(5, 20, 0)], 9),
    ],
)
def test_the_worst_moment(costs: list[Cost], most: int) -> None:
    assert worst_moment(costs) == most


def test_history(site: Site) -> None:
    sr, other = site.create_sr("one"), site.create_sr("two")
    assert site.sm("gc", "history") == []
    assert site.run("gc", "history")[1] == "no job has ended yet\n"
    ledger = Ledger(site.root / "gc.db")
    ledger.finished(_job(sr, 1))
    ledger.finished(_job(sr, 2, result=Result.FAILED, code="no-space", bytes_copied=0))
    ledger.finished(_job(other, 3, action="delete", images=("dddddddd-4",), into=None))
    assert [row["id"] for row in site.sm("gc", "history")] == ["job-3", "job-2", "job-1"]
    assert [row["id"] for row in site.sm("gc", "history", "--limit", "1")] == ["job-3"]
    failed, done = site.sm("gc", "history", "--sr", "one")
    assert (failed["result"], failed["code"], failed["bytes_per_second"]) == (
        "failed",
        "no-space",
        None,
    )
    assert (done["images"], done["bytes_per_second"]) == (["aaaaaaaa-1", "bbbbbbbb-2"], MIB / 2)
    _, text = site.run("gc", "history")
    lines = text.splitlines()
    assert len(lines) == 4
    assert lines[0].split()[:3] == ["TIME", "ACTION", "IMAGES"]
    assert "aaaaaaaa and 1 more" in lines[3]
    assert "512 KiB/s" in lines[3]


def test_a_limit_is_at_least_one(site: Site) -> None:
    assert site.run("gc", "history", "--limit", "0")[0] == 2
