"""The recorder of lock orders finds what it is there for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.lock_order import circle, orders

REPOSITORY = Path(__file__).resolve().parents[2]

CHILD = """
import sys
from pathlib import Path
from sm.locks import Locks
from tests.support.lock_order import record
folder, *names = sys.argv[1:]
record(Path(folder) / ("orders-" + "-".join(names)))
locks = Locks(Path(folder) / "locks", "host", 5.0)
first, second = [name.split(":") for name in names]
with locks.hold(*first, "test"), locks.hold(*first, "test"), locks.hold(*second, "test"):
    pass
"""


def taken(folder: Path, *names: str) -> None:
    """Let a process take two locks, one inside the other."""
    subprocess.run([sys.executable, "-c", CHILD, str(folder), *names], cwd=REPOSITORY, check=True)


def test_an_inversion_between_processes_is_found(tmp_path: Path) -> None:
    taken(tmp_path, "vdi:1", "sr:a")
    assert orders(tmp_path.glob("orders-*")) == {("vdi", "sr")}
    assert circle(orders(tmp_path.glob("orders-*"))) == []
    taken(tmp_path, "sr:b", "vdi:2")
    assert circle(orders(tmp_path.glob("orders-*"))) == ["sr", "vdi", "sr"]


def test_two_of_one_kind_may_be_taken_in_one_order_only(tmp_path: Path) -> None:
    taken(tmp_path, "vdi:1", "vdi:2")
    assert circle(orders(tmp_path.glob("orders-*"))) == []
    taken(tmp_path, "vdi:2", "vdi:1")
    assert circle(orders(tmp_path.glob("orders-*"))) == ["vdi 1", "vdi 2", "vdi 1"]


def test_a_long_way_round_is_a_circle() -> None:
    assert circle([("a", "b"), ("b", "c"), ("c", "d")]) == []
    assert circle([("a", "b"), ("b", "c"), ("c", "d"), ("d", "b")]) == ["b", "c", "d", "b"]
