"""Block devices of this host, and whether one holds anything that must not be lost."""

from __future__ import annotations

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

from sm import process
from sm.errors import SmError, SrExists, SrInUse

SYSFS = Path("/sys")
LOOK_SECONDS = 60.0


def block_device(path: Path) -> Path:
    """The device that a path leads to; raises `InvalidDev` when it is none."""
    try:
        found = path.resolve(strict=True)
        mode = found.stat().st_mode
    except (OSError, RuntimeError) as error:
        raise SmError(f"{path}: {error}", name="InvalidDev") from error
    if not stat.S_ISBLK(mode):
        raise SmError(f"{path} is not a block device", name="InvalidDev")
    return found


def size(device: Path) -> int:
    """Bytes of a device."""
    with device.open("rb") as file:
        return file.seek(0, os.SEEK_END)


def parse_signatures(output: str) -> list[str]:
    """The types of all that `wipefs --json` found; it prints nothing where there is nothing."""
    if not output.strip():
        return []
    document: dict[str, list[dict[str, Any]]] = json.loads(output)
    return [str(found["type"]) for found in document["signatures"]]


def _of_sysfs(device: Path, sysfs: Path) -> Path:
    number = device.stat().st_rdev
    return (sysfs / "dev" / "block" / f"{os.major(number)}:{os.minor(number)}").resolve()


def partitions(entry: Path) -> list[str]:
    """The partitions of the device whose folder in sysfs this is, by the kernel's table."""
    return sorted(path.parent.name for path in entry.glob("*/partition"))


def below(device: Path, sysfs: Path = SYSFS) -> list[Path]:
    """The devices that a mapped device is made of."""
    entry = _of_sysfs(device, sysfs) / "slaves"
    return [Path("/dev", path.name) for path in sorted(entry.iterdir())] if entry.is_dir() else []


def is_in_use(device: Path) -> bool:
    """Whether a device is mounted, swapped to, or has another one mapped onto it."""
    try:
        # The kernel lets nobody have such a device alone (open(2)).
        os.close(os.open(device, os.O_RDONLY | os.O_EXCL))
    except OSError as error:
        if error.errno == errno.EBUSY:
            return True
        raise SmError(f"{device}: {error.strerror}", name="InvalidDev") from error
    return False


def require_empty(device: Path, sysfs: Path = SYSFS) -> None:
    """Raise `SrExists` when a device holds anything known, and `SRInUse` when it is in use."""
    parts = partitions(_of_sysfs(device, sysfs))
    if parts:
        raise SrExists(f"{device} has partitions: {', '.join(parts)}")
    if is_in_use(device):
        raise SrInUse(f"{device} is mounted, or a part of another device")
    command = ["wipefs", "--json", "--no-act", "--", str(device)]
    found = parse_signatures(process.run(command, timeout=LOOK_SECONDS, inspect=True).stdout)
    if found:
        raise SrExists(
            f"{device} holds {', '.join(found)}; if nothing of it is needed: wipefs -a {device}"
        )
