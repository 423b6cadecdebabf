"""The tests of LVM, wherever they can run: `make test-lvm`.

With a device-mapper that answers they run here, else in one guest. Tests of the guests themselves,
and of several hosts with one disk, start guests of their own and come first. What cannot run fails.
Arguments are pytest's; a path among them says what is run in place of all.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.support.uml import lvm_settings
from tests.support.uml.__main__ import status_of
from tests.support.uml.setup import ROOT, SYSTEM_PATH, Setup, environment_of

INSIDE = "tests/lvm"
OUTSIDE = "tests/lvm/outside"
GUEST = "tests/lvm/guest"
"""Tests that set up servers of the kernel, which would change the machine they run on."""

DEADLINE_SECONDS = 900
MEMORY_MIB = 2048
TARGETS = ("dm-flakey", "dm-log-writes")


def main() -> int:
    """Run both parts; returns the first status of pytest that is not zero."""
    paths = [word for word in sys.argv[1:] if word.startswith(INSIDE)] or [OUTSIDE, INSIDE]
    options = [word for word in sys.argv[1:] if word not in paths]
    outside = [path for path in paths if path.startswith(OUTSIDE)]
    inside = [path for path in paths if path not in outside]
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
        print(f"LVM: tests run in a guest (User-mode Linux), not here: {why_not}", flush=True)
        return _run_in_guest([*options, *paths])
    print("LVM: tests run here: this machine has a device-mapper that answers", flush=True)
    here = [path for path in paths if not path.startswith(GUEST)]
    served = [path for path in paths if path not in here] or [GUEST] * (INSIDE in here)
    statuses = []
    if here:
        statuses.append(_run_here([*options, f"--ignore={GUEST}", *here]))
    if served:
        print("LVM: tests that set up servers run in a guest (User-mode Linux)", flush=True)
        statuses.append(_run_in_guest([*options, *served]))
    return next(filter(None, statuses), 0)


def _run_in_guest(given: list[str]) -> int:
    setup = Setup(folder=ROOT, memory_mib=MEMORY_MIB, deadline_seconds=DEADLINE_SECONDS)
    # Writing to shared folders is slow.
    return status_of([*_pytest(given), "-p", "no:cacheprovider"], setup)


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
