"""A file system of few bytes, to be filled."""

from __future__ import annotations

from pathlib import Path

from tests.support import namespaces
from tests.support.lvm.tools import call


def mount(folder: Path, megabytes: int) -> Path:
    """Have one at a new `folder`, in a test that has namespaces of its own; it goes with them."""
    namespaces.require()
    folder.mkdir()
    call("mount", "-t", "tmpfs", "-o", f"size={megabytes}M", "none", folder)
    return folder
