"""A command whose N-th lasting system call fails, for every N: it says so, and leaves no trace.

The call is not carried out; the command goes on with the error. Afterwards all disks read as
before, and the change is there as a whole or not at all; and not at all if the command failed.
"""

from __future__ import annotations

import itertools
import json
import subprocess
from pathlib import Path

import pytest

from tests.sm.test_command_crash import COMMANDS, disk_with_history, settle
from tests.support import guest, invariants
from tests.support.killing import SM
from tests.support.site import Site

CALLS = {
    "link": ("ENOSPC", 1),
    "rename": ("ENOSPC", 1),
    "ftruncate": ("ENOSPC", 1),
    "unlink": ("EIO", 1),
    "fsync": ("EIO", 1),
    "fdatasync": ("EIO", 1),
    "pwrite64": ("ENOSPC", 7),
}
"""Each call with the error that it gives, and the step from one N to the next."""


def failed_at(site: Site, number: int, call: str, *command: str) -> tuple[int, bool]:
    """Run `sm` with its N-th such call failing; gives its status, and whether one did fail."""
    trace = site.folder / "trace"
    ended = subprocess.run(
        [
            *("strace", "-o", str(trace), "-e", f"trace={call}"),
            *("-e", f"inject={call}:error={CALLS[call][0]}:when={number}"),
            *(SM, "--json", *command),
        ],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert "Traceback" not in ended.stderr, ended.stderr
    document = json.loads(ended.stdout)
    assert (ended.returncode == 0) == ("error" not in document)
    return ended.returncode, "(INJECTED)" in trace.read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_failing_command(name: str, cow_format: str, tmp_path: Path) -> None:
    refused = 0
    for call, (_, step) in CALLS.items():
        for number in itertools.count(1, step):
            site = Site(tmp_path / f"{call}-{number}")
            status, injected = attempt(site, name, cow_format, call, number)
            refused += status != 0
            if not injected:
                assert status == 0
                break
    assert refused


def attempt(site: Site, name: str, image_format: str, call: str, number: int) -> tuple[int, bool]:
    """One command with one failing call, and all that must hold then; as `failed_at`."""
    arguments, expected = COMMANDS[name]
    sr, disk, contents = disk_with_history(site, image_format)
    command = ("vdi", *arguments(sr, disk, image_format))
    status, injected = failed_at(site, number, call, *command)
    for uuid, data in contents.items():
        if name != "delete" or uuid != disk:
            seen = guest.content(site.chain(sr, uuid))
            assert seen[: len(data)] == data, f"{uuid} right after the failure"
    now = settle(site, sr)
    if status != 0 and name in ("create", "snapshot", "clone"):
        assert now == set(contents), f"refused at {call} {number}, the command left a disk"
    invariants.check(site, sr, expected(site, sr, disk, contents, now))
    return status, injected
