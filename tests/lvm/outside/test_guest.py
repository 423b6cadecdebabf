"""A guest runs a command as this machine would, and leaves nothing behind however it ends."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.patience import patient, until
from tests.support.uml import setup as uml_setup
from tests.support.uml.guest import Guest, How, run
from tests.support.uml.setup import ROOT, CannotRun, Setup

pytestmark = pytest.mark.world

COMMAND = (sys.executable, "-m", "tests.support.uml")
SHELL = """
echo "$GREETING" >shared; head -c 3000000 /dev/zero; echo said >&2
echo lost >"$OUTSIDE" && exit 77
"""


def traces(mark: str) -> list[str]:
    """The processes that have a word in their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            words = (entry / "cmdline").read_bytes() if entry.name.isdigit() else b""
        except (FileNotFoundError, ProcessLookupError):
            continue
        if mark.encode() in words:
            found.append(words.decode(errors="replace"))
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    """Where a guest has its folder: each of its processes has the name in its command line."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


def until_gone(state: Path) -> None:
    """Wait until neither processes nor files of a guest are left."""
    until(lambda: not traces(str(state)) and not list(state.iterdir()), "the end of the guest")


def test_status_output_and_files_come_out(state: Path, tmp_path: Path) -> None:
    shared = tmp_path / "a folder, shared"
    shared.mkdir()
    outside = ROOT.parent / f"sm-test-{tmp_path.name}"
    variables = {"GREETING": "two\nlines", "OUTSIDE": str(outside)}
    setup = Setup(shares=(shared,), folder=shared, environment=variables, state=state)
    with Guest(["sh", "-c", SHELL], setup) as guest:
        ended = guest.wait()
        assert guest.wait() is ended
        assert list(state.iterdir())
    assert not list(state.iterdir())
    assert not traces(str(state))
    assert (ended.how, ended.status) == (How.RETURNED, 77), ended
    assert hashlib.sha1(ended.stdout).digest() == hashlib.sha1(bytes(3_000_000)).digest()
    assert ended.stderr == b"said\n"
    assert (shared / "shared").read_text() == "two\nlines\n"
    assert not outside.exists()


def test_a_guest_ends_at_its_deadline() -> None:
    ended = run(["sh", "-c", "while :; do :; done"], Setup(deadline_seconds=4))
    assert (ended.how, ended.status) == (How.DEADLINE, None)


@pytest.mark.parametrize(
    ("command", "status", "said"),
    [
        (["sh", "-c", "echo dying; kill -11 $$"], 128 + signal.SIGSEGV, "dying"),
        (["no-such-program"], 127, "no-such-program cannot be started"),
    ],
)
def test_a_command_that_cannot_end_well_has_a_status(
    command: list[str], status: int, said: str
) -> None:
    ended = subprocess.run(
        [*COMMAND, "--", *command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ended.returncode == status
    assert said in ended.stdout + ended.stderr


def test_a_failing_kernel_is_no_power_cut() -> None:
    ended = run(["sh", "-c", "echo c >/proc/sysrq-trigger"])
    assert ended.how is How.DIED
    assert "panic" in ended.console


@pytest.mark.parametrize(
    ("number", "seconds"),
    [
        (signal.SIGTERM, 0.6),
        (signal.SIGKILL, 0.05),
        (signal.SIGKILL, 0.6),
        (signal.SIGKILL, 2.5),
    ],
)
def test_nothing_is_left_when_the_launcher_is_killed(
    number: signal.Signals, seconds: float, state: Path
) -> None:
    launcher = subprocess.Popen(
        [*COMMAND, "--state", str(state), "--", "sleep", "60"], cwd=ROOT, stderr=subprocess.DEVNULL
    )
    time.sleep(seconds)
    assert launcher.poll() is None
    launcher.send_signal(number)
    launcher.wait(patient(30))
    until_gone(state)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(uml_setup.PACKAGES, "no-such-program", "no-such-package")
    with pytest.raises(CannotRun, match="no-such-package"):
        Guest(["true"])
    monkeypatch.undo()
    with pytest.raises(CannotRun, match="can be no disk"):
        Guest(["true"], Setup(disks=(tmp_path / "none",)))
    with pytest.raises(CannotRun, match="choose another"):
        Guest(["true"], Setup(state=tmp_path / "a blank"))
