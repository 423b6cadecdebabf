"""The one place that runs tools of LVM: what they may touch, and what their failures mean.

Each command sees the devices of its volume group alone, with settings of ours (`etc/lvm`), whatever
the host's say. Only the SR master changes metadata; on other hosts LVM is told to refuse to.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from sm import process
from sm.errors import Busy, SmError, SrNoSpace, SrUnavailable, ToolFailed
from sm.volumes.lvm.blocks import flush

TIMEOUT = 120.0
"""Seconds; a command takes milliseconds, unless the storage hangs."""

SETTINGS = Path(__file__).parents[2] / "etc" / "lvm"
ENVIRONMENT = {"LVM_SYSTEM_DIR": str(SETTINGS)}
READ_ONLY = ("--config", "global/metadata_read_only=1")

_NO_SPACE = ("insufficient free space", "insufficient suitable", "not enough free")
_IN_USE = ("in use", "is used by another device", "device or resource busy")
_GONE = ("not found", "cannot process volume group", "no such device", "couldn't find device")


_CODE_NAMES: Mapping[str, str] = {
    "lvcreate": "LVMCreate",
    "lvremove": "LVMDelete",
    "lvchange": "LVMMount",
    "vgcreate": "LVMGroupCreate",
    "lvextend": "LVMResize",
    "lvreduce": "LVMResize",
}
"""What the failures of a command are called; of any other, `LVMWrite`."""


class Lvm:
    """Runs commands on one volume group, which is on `devices`."""

    def __init__(self, devices: Sequence[Path]) -> None:
        self._paths = tuple(devices)
        self._devices = ("--devices", ",".join(map(str, devices)))

    def change(self, command: str, *arguments: str) -> None:
        """Run a command that changes metadata; it has taken place, and lasts, on return.

        Raises `SrNoSpace`, `Busy` for a volume that is open, `SrUnavailable`, or any `SmError`.
        """
        self._run(command, "--yes", *self._devices, *arguments)
        # LVM writes past the cache of this host, and leaves that of the device as it is.
        for device in self._paths:
            try:
                flush(device)
            except OSError as error:
                text = f"{command}: {device} does not keep what was written: {error.strerror}"
                raise SmError(text, name="LVMWrite") from error

    def local(self, command: str, *arguments: str) -> None:
        """Run a command that concerns this host alone; LVM is kept from changing metadata."""
        self._run(command, *READ_ONLY, *self._devices, *arguments)

    def report(self, command: str, *arguments: str) -> list[dict[str, str]]:
        """The rows of a report, sizes in bytes."""
        shown = ("--reportformat", "json", "--units", "b", "--nosuffix")
        output = self._run(command, *READ_ONLY, *shown, *self._devices, *arguments)
        return rows(output)

    def _run(self, command: str, *arguments: str) -> str:
        argv = ("lvm", command, *arguments)
        try:
            result = process.run(argv, timeout=TIMEOUT, environment=ENVIRONMENT)
        except ToolFailed as error:
            if not error.stderr:
                raise
            raise meaning(command, error.stderr) from error
        return result.stdout


def rows(output: str) -> list[dict[str, str]]:
    """The rows of a report in JSON, of all its parts; ValueError for something else."""
    document: Mapping[str, list[Mapping[str, list[dict[str, str]]]]] = json.loads(output)
    return [row for report in document["report"] for part in report.values() for row in part]


def meaning(command: str, said: str) -> SmError:
    """The error that the words of a tool of LVM stand for."""
    words = " ".join(line.strip() for line in said.splitlines() if not _is_noise(line))
    text, low = f"{command}: {words[-400:]}", words.lower()
    if any(each in low for each in _NO_SPACE):
        return SrNoSpace(text)
    if any(each in low for each in _IN_USE):
        return Busy(text)
    if any(each in low for each in _GONE):
        return SrUnavailable(text)
    return SmError(text, name=_CODE_NAMES.get(command, "LVMWrite"))


def _is_noise(line: str) -> bool:
    return not line.strip() or line.strip().startswith("WARNING:")
