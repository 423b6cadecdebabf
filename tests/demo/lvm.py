"""The demo of thin volumes: a disk of 1 GiB in a volume group of 400 MiB, written, kept, merged.

usage: python -m tests.demo.lvm        here as root, where there is a device-mapper; else in a guest
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from sm.cli.sizes import show_size
from tests.datapath.clients import qemu_io
from tests.support.leftovers import end_processes
from tests.support.lvm.loop import attached
from tests.support.uml.__main__ import status_of
from tests.support.uml.run_suite import why_not_here
from tests.support.uml.setup import ROOT, Setup

MIB = 1 << 20
GROUP_SIZE = 400 * MIB
DISK_SIZE = 1024 * MIB
INSIDE = "--inside"


class Demo:
    """One run, in one temporary folder."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "root"
        self._root.mkdir()
        (self._root / "sm.conf").write_text("[sm]\npool = embedded\nthin_spare_mib = 16\n")
        self._expected = folder / "expected"
        with self._expected.open("xb") as file:
            file.truncate(DISK_SIZE)

    def sm(self, *arguments: str) -> Any:
        """Run a command for its JSON, showing it as a person would type it."""
        say(f"  $ sm {' '.join(arguments)}")
        ended = subprocess.run(
            [sys.executable, "-m", "sm.cli.main", "--json", *arguments],
            env={**os.environ, "SM_ROOT": str(self._root)},
            capture_output=True,
            text=True,
            check=False,
        )
        document = json.loads(ended.stdout)
        if ended.returncode not in (0, 3):
            sys.exit(f"the command failed: {document}")
        return document

    def write(self, uri: str, first: int, count: int, byte: int) -> None:
        """The guest writes so many MiB from MiB `first` on."""
        qemu_io(uri, *(f"write -P {byte} {n * MIB} {MIB}" for n in range(first, first + count)))
        with self._expected.open("r+b") as file:
            file.seek(first * MIB)
            file.write(bytes([byte]) * (count * MIB))

    def reads_as_written(self, uri: str) -> bool:
        """Whether qemu-img sees what the guest wrote, in all of the disk."""
        compare = ["qemu-img", "compare", "-q", "-f", "raw", "-F", "raw", uri, self._expected]
        return subprocess.run(compare, check=False).returncode == 0


def say(text: str) -> None:
    """Print at once, so that the demo can be watched."""
    print(text, flush=True)


def volumes() -> str:
    """The volumes and what is free, as LVM tells it."""
    names = subprocess.run(
        ["lvs", "--noheadings", "--units", "m", "--nosuffix", "-o", "lv_name,lv_size"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = [line.split() for line in names.splitlines()]
    shown = [f"{name[:12]} {float(size):.0f} MiB" for name, size in found if name != "MGT"]
    return ", ".join(shown)


def run() -> int:
    """Run it here; the exit status is 0 when the disk read as it should."""
    folder = Path(tempfile.mkdtemp(prefix="sm-demo-"))
    try:
        with attached(folder / "disk", GROUP_SIZE) as disk:
            return _show(Demo(folder), str(disk.device))
    finally:
        end_processes(str(folder))


def _show(demo: Demo, device: str) -> int:
    say(f"== A volume group of {show_size(GROUP_SIZE)}, and a disk that is larger")
    config = ("--device-config", f"device={device}", "--device-config", "allocation=thin")
    sr = demo.sm("sr", "create", "--name", "demo", "--type", "lvm", *config)["uuid"]
    made = demo.sm("vdi", "create", "--sr", "demo", "--size", "1GiB", "--format", "qcow2")
    vdi = made["uuid"]
    say(f"    volumes: {volumes()}")

    say("\n== Its volume grows while it is written")
    uri = demo.sm("vdi", "activate", vdi)["nbd"]
    for number in range(4):
        demo.write(uri, number * 24, 24, number + 1)
        say(f"    {number * 24 + 24} MiB written; volumes: {volumes()}")

    say("\n== A snapshot in the middle of it costs megabytes")
    kept = demo.sm("vdi", "snapshot", vdi)["uuid"]
    say(f"    volumes: {volumes()}")
    demo.write(uri, 12, 48, 9)
    say(f"    48 MiB written once more; volumes: {volumes()}")

    say("\n== The snapshot is deleted, and the collector merges what is left of it")
    demo.sm("vdi", "deactivate", vdi)
    demo.sm("vdi", "delete", kept)
    for step in demo.sm("gc", "run", "--sr", sr)["done"]:
        say(f"    {step['action']}: {show_size(step['bytes_freed'])} given back")
    say(f"    volumes: {volumes()}")

    uri = demo.sm("vdi", "activate", vdi, "--read-only")["nbd"]
    good = demo.reads_as_written(uri)
    demo.sm("vdi", "deactivate", vdi)
    say(f"\n{'The disk reads exactly as it was written.' if good else 'THE DISK IS DIFFERENT.'}")
    demo.sm("vdi", "delete", vdi)
    demo.sm("gc", "run", "--sr", sr)
    demo.sm("sr", "destroy", sr)
    return 0 if good else 1


def main() -> int:
    """Run it here, or in a guest."""
    if INSIDE in sys.argv[1:]:
        return run()
    reason = why_not_here()
    if reason is None:
        return run()
    say(f"== In a guest (User-mode Linux), not here: {reason}\n")
    setup = Setup(folder=ROOT, memory_mib=2048, deadline_seconds=600)
    return status_of([sys.executable, "-m", "tests.demo.lvm", INSIDE], setup)


if __name__ == "__main__":
    sys.exit(main())
