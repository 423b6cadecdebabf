"""The tests of LVM, wherever they can run: `make test-lvm`.

With a device-mapper that answers they run here, else in guests. Tests of the guests themselves,
and of several hosts with one disk, start guests of their own and come first. What cannot run fails.
Arguments are pytest's; a path among them says what is run in place of all.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.patience import patient
from tests.support.tiers import NAMED, SOAK, TIER, Tier
from tests.support.uml import lvm_settings
from tests.support.uml.__main__ import status_of
from tests.support.uml.setup import ROOT, SYSTEM_PATH, Setup, environment_of

INSIDE = "tests/lvm"
OUTSIDE = "tests/lvm/outside"
GUEST = "tests/lvm/guest"
"""Tests that set up servers of the kernel, which would change the machine they run on."""

ONE = "--one-guest="
"""Among our own arguments: all that is named runs in a single guest, on the CPU of that number."""

SECONDS = {
    "test_in_use": 150,
    "test_killed_commands": 120,
    "test_thin": 90,
    "test_lvm_sr": 45,
    "test_device_contract": 75,
    "test_killed_changes": 35,
    "test_power": 50,
    "test_lvm_store": 40,
}
SECONDS_OF_OTHERS = 25
"""What files take in a guest, roughly: only who gets which of them depends on it."""

MOST_GUESTS = 2
DEADLINE_SECONDS = patient(600)
SOAK_SECONDS = 4 * 3600
MEMORY_MIB = 2048
TARGETS = ("dm-flakey", "dm-log-writes")


def main() -> int:
    """Run what is named, or all of it; returns the first status that is not zero."""
    paths = [word for word in sys.argv[1:] if word.startswith(INSIDE)] or [OUTSIDE, INSIDE]
    options = [word for word in sys.argv[1:] if word not in paths]
    outside = [path for path in paths if path.startswith(OUTSIDE)]
    inside = [path for path in paths if path not in outside]
    for option in options:
        if option.startswith(ONE):
            options.remove(option)
            return _run_in_guest([*options, *inside], int(option.removeprefix(ONE)))
    statuses = []
    if outside:
        print("LVM: tests that start guests", flush=True)
        command = _pytest([*options, *outside])
        statuses.append(subprocess.run(command, cwd=ROOT, check=False).returncode)
    if inside:
        statuses.append(_run_inside(options, inside))
    return next(filter(None, statuses), 0)


def _run_inside(options: list[str], paths: list[str]) -> int:
    why_not = why_not_here()
    if why_not is not None:
        print(f"LVM: tests run in guests (User-mode Linux), not here: {why_not}", flush=True)
        return _run_in_guests(options, paths)
    print("LVM: tests run here: this machine has a device-mapper that answers", flush=True)
    here = [path for path in paths if not path.startswith(GUEST)]
    served = [path for path in paths if path not in here]
    if not served and INSIDE in here:
        served = [GUEST]
    statuses = []
    if here:
        statuses.append(_run_here([*options, f"--ignore={GUEST}", *here]))
    if served:
        print("LVM: tests that set up servers run in guests (User-mode Linux)", flush=True)
        statuses.append(_run_in_guests(options, served))
    return next(filter(None, statuses), 0)


def _run_in_guests(options: list[str], paths: list[str]) -> int:
    """Share the files among as many guests as there are CPUs, for each guest has one."""
    files = sorted(file for path in paths for file in _files(path))
    if not files:
        return 0
    count = min(MOST_GUESTS, os.cpu_count() or 1, len(files))
    if count < 2:
        return _run_in_guest([*options, *paths])
    with ExitStack() as stack:
        shares = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(count)]
        started: list[subprocess.Popen[bytes]] = []
        stack.callback(_stop, started)
        for cpu, (output, share) in enumerate(zip(shares, shared(files, count), strict=True)):
            own = [f"{ONE}{cpu}", *options, *share]
            command = [sys.executable, "-m", "tests.support.uml.run_suite", *own]
            started.append(
                subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT)
            )
        statuses = []
        for each, output in zip(started, shares, strict=True):
            statuses.append(each.wait())
            output.seek(0)
            sys.stdout.buffer.write(output.read())
            sys.stdout.flush()
    return next(filter(None, statuses), 0)


def _stop(started: list[subprocess.Popen[bytes]]) -> None:
    """End the guests of those that still run, because we were told to end."""
    for each in started:
        if each.poll() is None:
            each.terminate()
            each.wait()


def shared(files: list[str], count: int) -> list[list[str]]:
    """The files in so many lists, which take about the same time."""
    shares: list[list[str]] = [[] for _ in range(count)]
    taken = [0] * count
    for file in sorted(files, key=_seconds, reverse=True):
        least = taken.index(min(taken))
        shares[least].append(file)
        taken[least] += _seconds(file)
    return shares


def _seconds(file: str) -> int:
    return SECONDS.get(Path(file).stem, SECONDS_OF_OTHERS)


def _files(path: str) -> list[str]:
    """The files of tests at a path, but for those that are run outside of guests."""
    if not (ROOT / path).is_dir():
        return [path]
    found = (str(file.relative_to(ROOT)) for file in (ROOT / path).rglob("test_*.py"))
    return [file for file in found if not file.startswith(OUTSIDE) and _is_of_tier(file)]


def _is_of_tier(file: str) -> bool:
    """Whether a file of tests, which belongs to one tier as a whole, is run by ours."""
    marked = re.search(r"^pytestmark = .*mark\.world", (ROOT / file).read_text(), re.MULTILINE)
    return NAMED is None or SOAK or bool(marked) == (TIER is Tier.WORLD)


def _run_in_guest(given: list[str], cpu: int = 0) -> int:
    deadline = SOAK_SECONDS if SOAK else DEADLINE_SECONDS
    setup = Setup(folder=ROOT, memory_mib=MEMORY_MIB, deadline_seconds=deadline, cpu=cpu)
    # Writing to shared folders is slow, hypothesis takes seconds to import, and what tests leave
    # in their folders is in the guest's memory.
    inside = ("-p", "no:cacheprovider", "-p", "no:hypothesispytest")
    status = status_of(
        [*_pytest(given), *inside, *("-o", "tmp_path_retention_policy=failed")], setup
    )
    if status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        print(f"LVM: the tests of a guest did not come to their end: status {status}", flush=True)
    return status


def _run_here(given: list[str]) -> int:
    udev = Path("/run/udev/control").exists()
    with tempfile.TemporaryDirectory(prefix="sm-lvm-") as folder:
        (Path(folder) / "lvm.conf").write_text(lvm_settings.lvm_conf(udev=udev))
        own = environment_of(Setup(environment=lvm_settings.environment(Path(folder), udev=udev)))
        return subprocess.run(_pytest(given), cwd=ROOT, env=own, check=False).returncode


def _pytest(given: list[str]) -> list[str]:
    return [sys.executable, "-m", "pytest", *given]


def why_not_here() -> str | None:
    """Why the tests cannot use this machine's own device-mapper; None when they can."""
    if os.geteuid() != 0:
        return "that needs root"
    for device in (Path("/dev/mapper/control"), Path("/dev/loop-control")):
        if not device.exists():
            return f"there is no {device}"
    for command in (
        ("dmsetup", "version"),
        ("lvm", "version"),
        ("modprobe", "--dry-run", "--quiet", "--all", *TARGETS),
    ):
        path = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"}
        try:
            subprocess.run(command, env=path, capture_output=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return f"'{' '.join(command)}' fails"
    return None


if __name__ == "__main__":
    sys.exit(main())
