"""What the tests of a session leave is found, named and removed; that of others is left alone."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from sm.datapath.sockets import STANDS_FOR
from sm.owner import start_time
from tests.suite.inner import IN_THE_MIDDLE, Inner
from tests.support.patience import until

pytestmark = pytest.mark.world

HANG = "os.kill(PROCESS, signal.SIGALRM), time.sleep(1000)"
"""As when the time of pytest-timeout has passed, without waiting for that."""

FOLLOWED = "\ndef test_that_follows(): pass\n"
NOTHING = "def test_nothing(): pass\n"
WAITS = IN_THE_MIDDLE.replace("MORE", "pass").replace("END", "time.sleep(1000)")
HANGS = IN_THE_MIDDLE.replace("MORE", "pass").replace("END", HANG) + FOLLOWED


@pytest.fixture
def inner(tmp_path: Path) -> Inner:
    return Inner(tmp_path)


def socket_folders(folder: Path) -> list[Path]:
    """The folders that stand for ones below a folder."""
    found = (link for link in Path("/tmp").glob(f"sm-*-*/{STANDS_FOR}"))
    return [link.parent for link in found if str(link.readlink()).startswith(f"{folder}/")]


def lives(process: int) -> bool:
    return start_time(process) is not None


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_killed_session_is_cleared_away_by_the_next(inner: Inner, workers: tuple[str]) -> None:
    killed = inner.start(WAITS, *workers)
    left = inner.until_ready(killed)
    living = inner.start(WAITS)
    others = inner.until_ready(living)
    files = len(list((inner.folder / "files").glob("pytest-of-*/pytest-*/")))
    folders = set(socket_folders(inner.folder))
    killed.kill()
    killed.wait()
    assert any(map(lives, left))
    status, text = inner.run(NOTHING)
    assert status == 0, text
    assert f"left by an earlier session {killed.pid}: process {left[0]}" in text
    assert "test_in_the_middle (call)" in text
    until(lambda: not any(map(lives, left)))
    # Of the one that lives nothing is gone.
    assert all(map(lives, others))
    assert len(inner.marks()) == 1
    remaining = set(socket_folders(inner.folder))
    assert remaining
    assert remaining < folders
    assert len(list((inner.folder / "files").glob("pytest-of-*/pytest-*/"))) < files
    living.kill()
    living.wait()
    status, text = inner.run(NOTHING)
    assert f"left by an earlier session {living.pid}: process" in text
    until(lambda: not any(map(lives, others)))
    assert socket_folders(inner.folder) == []
    assert inner.marks() == []


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_session_in_which_a_passing_test_leaves_something_fails(
    inner: Inner, workers: tuple[str]
) -> None:
    source = """
import subprocess
def test_that_forgets():
    print(subprocess.Popen(["setsid", "-f", "sleep", "1000"]).wait())
"""
    status, text = inner.run(source, *workers)
    assert "1 passed" in text
    assert status == 1
    assert "left by tests of this session" in text
    assert "test_that_forgets (call): sleep 1000" in text
    assert inner.marks() == []
    assert subprocess.run(["pgrep", "-f", str(inner.folder)], check=False).returncode == 1


def test_a_session_leaves_nothing(inner: Inner) -> None:
    status, text = inner.run(IN_THE_MIDDLE.replace("MORE", "pass").replace("END", "ended()"))
    assert status == 0, text
    assert not any(map(lives, inner.told()))
    assert inner.marks() == []
    assert socket_folders(inner.folder) == []
    assert not list((inner.folder / "files").glob("pytest-of-*/pytest-[0-9]*/"))


@pytest.mark.parametrize("workers", [(), ("-n", "1")], ids=["one process", "a worker"])
def test_a_test_that_hangs_fails_and_the_next_one_runs(inner: Inner, workers: tuple[str]) -> None:
    status, text = inner.run(HANGS.replace("PROCESS", "os.getpid()"), *workers)
    assert status == 1
    assert "1 failed, 1 passed" in text
    assert "Timeout" in text
    assert not any(map(lives, inner.told()))


def test_a_test_in_namespaces_that_hangs_says_where(inner: Inner) -> None:
    marked = HANGS.replace("def test_in", "@pytest.mark.own_namespaces\ndef test_in")
    status, text = inner.run(marked.replace("PROCESS", "os.getppid()"))
    assert status == 1
    assert "1 failed, 1 passed" in text
    assert "in test_in_the_middle" in text
    assert not any(map(lives, inner.told()))
    assert inner.marks() == []
