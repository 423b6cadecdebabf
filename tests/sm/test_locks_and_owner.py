"""Locks between real processes, and how a stale owner is told from a living one."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from sm.errors import LockFailed
from sm.locks import Locks
from sm.owner import Owner, start_time

HOLD = """
import sys
from pathlib import Path
from sm.locks import Locks
with Locks(Path(sys.argv[1]), "host", 5).hold("sr", "x", "holding for a test"):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_lock_excludes_other_processes_and_names_its_holder(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        locks = Locks(tmp_path, "host", 0.1)
        named = f"holding for a test.*{holder.pid}"
        with pytest.raises(LockFailed, match=named), locks.hold("sr", "x", "other"):
            pass
        with locks.hold("sr", "y", "another lock"):
            pass
        holder.kill()
        holder.wait()
        with locks.hold("sr", "x", "after its death"):
            pass


def test_owner_round_trip_and_end() -> None:
    me = Owner.this_process("host", "test")
    assert Owner.parse(me.text) == me
    assert not me.ended("host")
    assert replace(me, started=me.started + 1).ended("host")
    assert replace(me, boot="another").ended("host")
    assert not replace(me, boot="another").ended("elsewhere")
    child = subprocess.Popen([sys.executable, "-c", "pass"])
    child.wait()
    assert replace(me, pid=child.pid).ended("host")


def test_a_zombie_has_ended() -> None:
    child = os.fork()
    if child == 0:
        os._exit(0)
    os.waitid(os.P_PID, child, os.WEXITED | os.WNOWAIT)
    assert start_time(child) is None
    os.waitpid(child, 0)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"host": "a"}', "1"])
def test_what_is_no_owner(text: str) -> None:
    with pytest.raises(ValueError, match=r"owner|Expecting"):
        Owner.parse(text)
