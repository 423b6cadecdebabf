"""Which process may serve a disk whose note cannot be read: asked of the system alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

TAPDISK = "tapdisk"
"""A process that does not say which disk it serves, where that is a device."""


def carrier(vdi: str, proc: Path = Path("/proc")) -> int | None:
    """A process that may serve a VDI; None where there is none for certain.

    One that was given its UUID, or holds a file or listens at a socket whose name has it. A tapdisk
    may serve anything. Of a process whose files we may not see only its command line counts, which
    names the disk where the process is one of ours.
    """
    wanted = os.fsencode(vdi)
    listening = _listening(wanted, proc)
    for folder in sorted(proc.iterdir()):
        if not folder.name.isdigit() or int(folder.name) == os.getpid():
            continue
        try:
            if _carries(folder, wanted, listening):
                return int(folder.name)
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended since
    return None


def _carries(folder: Path, wanted: bytes, listening: frozenset[str]) -> bool:
    command = (folder / "cmdline").read_bytes()
    program = os.path.basename(command.split(b"\0", 1)[0])  # noqa: PTH119 - bytes
    if program == TAPDISK.encode() or (folder / "comm").read_bytes().strip() == TAPDISK.encode():
        return True
    if wanted in command:
        return True
    return any(wanted in os.fsencode(target) or target in listening for target in _open(folder))


def _open(folder: Path) -> Iterator[str]:
    """What a process has open, as far as we may see it."""
    with suppress(PermissionError):
        for number in os.listdir(folder / "fd"):  # noqa: PTH208 - only their names
            with suppress(FileNotFoundError):  # closed since
                yield str((folder / "fd" / number).readlink())


def _listening(wanted: bytes, proc: Path) -> frozenset[str]:
    """The sockets, as /proc/PID/fd shows them, whose paths have it (unix(7), proc(5))."""
    lines = (proc / "net" / "unix").read_bytes().splitlines()
    numbers = [line.split(None, 7)[6] for line in lines if wanted in line]
    return frozenset(f"socket:[{number.decode('ascii')}]" for number in numbers)
