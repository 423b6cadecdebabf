"""A file system of few bytes, to be filled."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


@contextmanager
def mounted(folder: Path, megabytes: int) -> Iterator[Path]:
    """Have one at a new `folder`; skips the test where nothing may be mounted."""
    folder.mkdir()
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "none", str(folder)], check=False
    )
    if made.returncode:
        pytest.skip("no mounts here")
    try:
        yield folder
    finally:
        # Lazily: a process of the test that is about to end may have a file open.
        subprocess.run(["umount", "-l", str(folder)], check=True)
