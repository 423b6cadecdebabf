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

from tests.sm.test_command_crash import COMMANDS, SM, disk_with_history, settle
from tests.support import guest, invariants
from tests.support.site import Site

CALLS = {
    "ENOSPC": "link,rename,ftruncate,fsync,fdatasync,pwrite64",
    "EIO": "link,rename,unlink,fsync,fdatasync",
}


def failed_at(site: Site, number: int, error: str, *command: str) -> tuple[int, bool]:
    """Run `sm` with its N-th such call failing; gives its status, and whether one did fail."""
    trace = site.folder / "trace"
    ended = subprocess.run(
        [
            *("strace", "-o", str(trace), "-e", f"trace={CALLS[error]}"),
            *("-e", f"inject={CALLS[error]}:error={error}:when={number}"),
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


@pytest.mark.parametrize("error", CALLS)
@pytest.mark.parametrize("name", COMMANDS)
def test_failing_command(name: str, error: str, cow_format: str, tmp_path: Path) -> None:
    arguments, expected = COMMANDS[name]
    refused = 0
    for number in itertools.count(1):
        site = Site(tmp_path / str(number))
        sr, disk, contents = disk_with_history(site, cow_format)
        status, injected = failed_at(site, number, error, "vdi", *arguments(sr, disk, cow_format))
        for uuid, data in contents.items():
            if name != "delete" or uuid != disk:
                seen = guest.content(site.chain(sr, uuid))
                assert seen[: len(data)] == data, f"{uuid} right after the failure"
        now = settle(site, sr)
        if status != 0 and name in ("create", "snapshot", "clone"):
            assert now == set(contents), "a refused command left a disk"
        invariants.check(site, sr, expected(site, sr, disk, contents, now))
        refused += status != 0
        if not injected:
            assert status == 0
            break
    assert refused
