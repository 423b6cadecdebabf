"""What a guest is given, and what this machine must have to start one."""

from __future__ import annotations

import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.patience import patient

ROOT = Path(__file__).resolve().parents[3]
"""The repository, which every guest shares with this machine."""

MODULES = ("dm-mod", "loop", "nbd", "fuse")
SYSTEM_PATH = "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/sbin:/usr/local/bin"
MODULE_TREES = Path("/usr/lib/uml/modules")

PACKAGES = {
    "linux.uml": "user-mode-linux",
    "modprobe": "kmod",
    "lvm": "lvm2",
    "dmsetup": "dmsetup",
    "losetup": "mount",
}
"""The Debian package of each program that a guest needs."""

MOST_DISKS = 16
NOT_PASSED_ON = ("TMPDIR", "TMP", "TEMP", "LD_PRELOAD")


class CannotRun(Exception):
    """No guest can be started here; says what to do."""


@dataclass(frozen=True)
class Wire:
    """One end of a network between two guests: `socket` is one of a pair, for whole packets.

    In the guest it is the network card vec0, which has `address` in a network of /24. Whoever made
    the socket closes it once the guest is started.
    """

    socket: socket.socket
    address: str


@dataclass(frozen=True)
class Setup:
    """What a guest is given.

    Each of `disks` is a file; they become /dev/ubda, /dev/ubdb, and so on, and one file may be
    given to several guests at once. `shares` are folders, beside the repository, that are this
    machine's own; everything else may be written to, and is forgotten. The deadline holds from the
    start. `state` is where the folder is made that each guest has while it lives. Without a `wire`
    there is no network but loopback. `cpu` says which of the CPUs that we may use is its own.
    """

    disks: tuple[Path, ...] = ()
    shares: tuple[Path, ...] = ()
    modules: tuple[str, ...] = ()
    memory_mib: int = 1024
    deadline_seconds: float = patient(150)
    folder: Path = ROOT
    state: Path = Path("/var/tmp")
    environment: Mapping[str, str] = field(default_factory=dict)
    wire: Wire | None = None
    cpu: int = 0


def cpu_of(setup: Setup) -> int:
    """The CPU that all of a guest runs on; several guests with numbers from 0 are spread evenly.

    Kernel and processes of a guest wait for each other all the time: waking another CPU for each
    turn makes everything in there two to three times as slow.
    """
    ours = sorted(os.sched_getaffinity(0))
    return ours[setup.cpu % len(ours)]


def kernel() -> str:
    """The path of the guest's kernel; raises `CannotRun` when something it needs is missing."""
    path = f"{os.environ.get('PATH', '')}:{SYSTEM_PATH}"
    found = {program: shutil.which(program, path=path) for program in PACKAGES}
    missing = {PACKAGES[program] for program, where in found.items() if where is None}
    if not MODULE_TREES.is_dir():
        missing.add(PACKAGES["linux.uml"])
    if missing:
        raise CannotRun(
            "a guest cannot be started: install the Debian packages "
            f"{' '.join(sorted(missing))} (as root: apt-get install)"
        )
    return str(found["linux.uml"])


def state_of(setup: Setup) -> Path:
    """Where its folder is made; raises `CannotRun` for a name that the kernel cannot be given."""
    folder = setup.state.resolve()
    hidden = any(folder.is_relative_to(f"/{name}") for name in ("dev", "proc", "sys"))
    if hidden or not set(str(folder)).isdisjoint(" \t\n\"',"):
        raise CannotRun(f"the kernel of a guest finds nothing in {str(folder)!r}: choose another")
    return folder


def disks_of(setup: Setup) -> list[Path]:
    """Its disks by absolute names; raises `CannotRun` for one that cannot be attached."""
    if len(setup.disks) > MOST_DISKS:
        raise CannotRun(f"a guest takes {MOST_DISKS} disks, {len(setup.disks)} are given")
    for disk in setup.disks:
        if not (disk.is_file() or disk.is_block_device()):
            raise CannotRun(f"{disk} is neither a file nor a block device, so it can be no disk")
    return [disk.absolute() for disk in setup.disks]


def shared_folders(setup: Setup) -> list[Path]:
    """The folders that are the same inside and outside, outermost first and each only once.

    The virtual environment is among them: it may lie where the guest has empty memory instead.
    """
    wanted = {ROOT, Path(sys.prefix).resolve(), *(share.resolve() for share in setup.shares)}
    wanted.discard(Path(sys.base_prefix).resolve())
    outermost: list[Path] = []
    for folder in sorted(wanted):
        if not folder.is_dir():
            raise CannotRun(f"{folder} is no folder, so it cannot be shared with a guest")
        if not any(folder.is_relative_to(other) for other in outermost):
            outermost.append(folder)
    return outermost


def environment_of(setup: Setup) -> dict[str, str]:
    """The variables of the command: ours but those of temporary folders, and then its own."""
    passed = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    # To look for a tool where it is not takes as long as to start it: usual places come first.
    usual = SYSTEM_PATH.split(":")
    more = [folder for folder in passed.get("PATH", "").split(":") if folder not in usual]
    passed["PATH"] = ":".join([*usual, *filter(None, more)])
    return {"HOME": "/root", **passed, **setup.environment}
