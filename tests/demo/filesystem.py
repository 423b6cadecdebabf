"""A guest's file system: made from files of this machine, changed, checked, and read back."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from sm.process import run

SECONDS = 120.0
SYSTEM_FOLDERS = ("/usr/sbin", "/sbin")
"""Where the tools of ext4 are; an ordinary user's PATH lacks them."""


def use_system_tools() -> None:
    """Let this process find the tools of ext4."""
    os.environ["PATH"] = os.pathsep.join((os.environ.get("PATH", ""), *SYSTEM_FOLDERS))


def make(image: Path, source: Path, size: int) -> None:
    """An ext4 file system of `size` bytes that holds the files of folder `source`."""
    run(
        ["mke2fs", "-q", "-t", "ext4", "-d", str(source), str(image), f"{size // 1024}k"],
        timeout=SECONDS,
    )


def add_file(image: Path, source: Path, name: str) -> None:
    """Write a file into the root folder of the file system."""
    run(["debugfs", "-w", "-R", f"write {source} {name}", str(image)], timeout=SECONDS)


def remove_file(image: Path, name: str) -> None:
    """Remove a file from the root folder of the file system."""
    run(["debugfs", "-w", "-R", f"rm {name}", str(image)], timeout=SECONDS)


def is_sound(image: Path) -> bool:
    """Whether a forced check, which changes nothing, finds nothing wrong."""
    accept = (0, 1, 4, 8, 12)
    return run(["e2fsck", "-fn", str(image)], timeout=SECONDS, accept=accept).code == 0


def checksums(image: Path, folder: Path) -> dict[str, str]:
    """SHA-256 of each file in the file system, which is unpacked into the empty `folder`."""
    folder.mkdir()
    run(["debugfs", "-R", f"rdump / {folder}", str(image)], timeout=SECONDS)
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }
