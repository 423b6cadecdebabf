"""A guest runs a command as this machine would, and leaves nothing behind however it ends."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.uml import setup as uml_setup
from tests.support.uml.guest import Guest, How, run
from tests.support.uml.setup import ROOT, CannotRun, Setup

COMMAND = (sys.executable, "-m", "tests.support.uml")
SHELL = """
echo "$GREETING" >shared; head -c 3000000 /dev/zero; echo said >&2
echo lost >"$OUTSIDE"; test -e "$OUTSIDE" && ! test -e /var/tmp/sm-guest-* && exit 77
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


def guest_folders() -> set[Path]:
    return set(Path("/var/tmp").glob("sm-guest-*"))


def wait_until_gone(mark: str, before: set[Path]) -> None:
    deadline = time.monotonic() + 30
    while traces(mark) or guest_folders() - before:
        assert time.monotonic() < deadline, (traces(mark), guest_folders() - before)
        time.sleep(0.05)


def test_status_output_and_files_come_out(tmp_path: Path) -> None:
    shared = tmp_path / "a folder, shared"
    shared.mkdir()
    outside = ROOT.parent / f"sm-test-{tmp_path.name}"
    variables = {"GREETING": "two\nlines", "OUTSIDE": str(outside)}
    setup = Setup(shares=(shared,), folder=shared, environment=variables)
    before = guest_folders()
    with Guest(["sh", "-c", SHELL], setup) as guest:
        ended = guest.wait()
        assert guest.wait() is ended
    assert (ended.how, ended.status) == (How.RETURNED, 77), ended
    assert hashlib.sha1(ended.stdout).digest() == hashlib.sha1(bytes(3_000_000)).digest()
    assert ended.stderr == b"said\n"
    assert (shared / "shared").read_text() == "two\nlines\n"
    assert not outside.exists()
    wait_until_gone("sm-guest-", before)


def test_a_guest_ends_at_its_deadline() -> None:
    ended = run(["sh", "-c", "while :; do :; done"], Setup(deadline_seconds=4))
    assert (ended.how, ended.status) == (How.DEADLINE, None)


def test_a_signal_and_a_missing_command_have_a_status() -> None:
    ended = run(["sh", "-c", 'sh -c "kill -9 \\$\\$"; echo $?; kill -11 $$'])
    assert (ended.status, ended.stdout) == (128 + signal.SIGSEGV, b"137\n")


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
    number: signal.Signals, seconds: float, tmp_path: Path
) -> None:
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(4096))
    before = guest_folders()
    words = [*COMMAND, "--disk", str(disk), "--", "sleep", "60"]
    launcher = subprocess.Popen(words, cwd=ROOT)
    time.sleep(seconds)
    assert launcher.poll() is None
    launcher.send_signal(number)
    launcher.wait(30)
    wait_until_gone(str(disk), before)


def test_what_is_missing_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(uml_setup.PACKAGES, "no-such-program", "no-such-package")
    with pytest.raises(CannotRun, match="no-such-package"):
        Guest(["true"])
    monkeypatch.undo()
    with pytest.raises(CannotRun, match="can be no disk"):
        Guest(["true"], Setup(disks=(tmp_path / "none",)))
