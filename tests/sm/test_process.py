"""Child processes: their limits, how they end, and that nothing of theirs reaches our output."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

import pytest

from sm.errors import ToolFailed
from sm.owner import start_time
from sm.process import run
from tests.support.patience import patient, until


def python(code: str) -> list[str]:
    """A child that runs Python code."""
    return [sys.executable, "-c", code]


def test_output_and_status() -> None:
    result = run(
        python("import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"),
        timeout=patient(10),
        accept=(0, 3),
    )
    assert (result.code, result.stdout, result.stderr) == (3, "out\n", "err")


def test_large_output_on_both_pipes_does_not_block() -> None:
    code = "import sys\nfor _ in range(300): print('x' * 999); sys.stderr.write('y' * 1000)"
    result = run(python(code), timeout=patient(20))
    assert (len(result.stdout), len(result.stderr)) == (300_000, 300_000)


def test_failure_is_typed_and_says_why() -> None:
    with pytest.raises(ToolFailed, match="exit status 7: broken pipe of dreams"):
        run(
            python("import sys; sys.stderr.write('broken pipe of dreams'); sys.exit(7)"),
            timeout=patient(9),
        )
    with pytest.raises(ToolFailed, match="cannot be started"):
        run(["/nonexistent/tool"], timeout=1)
    with pytest.raises(ToolFailed, match="SIGKILL"):
        run(python("import os; os.kill(os.getpid(), 9)"), timeout=patient(9))


def test_time_limit_ends_the_whole_group(tmp_path: Path) -> None:
    """Both would go on for ever."""
    note = tmp_path / "pid"
    script = f"sleep infinity & echo $! >{shlex.quote(str(note))}; wait"
    with pytest.raises(ToolFailed, match="ran out of time"):
        run(["sh", "-c", script], timeout=patient(0.5))
    grandchild = int(note.read_text())
    until(lambda: start_time(grandchild) is None, "the end of the child's child")


def test_memory_limit_for_inspection() -> None:
    code = "x = bytearray(3 << 30)"
    with pytest.raises(ToolFailed, match="MemoryError"):
        run(python(code), timeout=patient(20), inspect=True)
    assert run(python(code), timeout=patient(20)).code == 0


class Enough(Exception):
    """Raised to stop a child."""


def test_watch_hears_output_and_can_stop() -> None:
    heard = []

    def watch(text: str) -> None:
        heard.append(text)
        if "3" in text:
            raise Enough

    code = "import time\nfor n in range(100): print(n, flush=True); time.sleep(0.1)"
    with pytest.raises(Enough):
        run(python(code), timeout=patient(30), watch=watch)
    assert "".join(heard).startswith("0\n")


def test_nothing_is_inherited() -> None:
    result = run(python("import sys; print(repr(sys.stdin.read()))"), timeout=patient(10))
    assert result.stdout == "''\n"
