"""The library that goes before all others in a process: compiled from `shim` when it is needed."""

from __future__ import annotations

import atexit
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).with_name("shim")

COMPILE = (
    *("gcc", "-std=gnu17", "-O2", "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"),
    *("-D_GNU_SOURCE", "-D_LARGEFILE64_SOURCE", "-U_FORTIFY_SOURCE"),
)


@cache
def folder() -> Path:
    """Where this test process has the library and the state of its faults, as long as it lives.

    Not in the folder of a test: processes that are started with the faults of a test are to be
    found by its folder, and its state must stay until they have ended.
    """
    made = tempfile.TemporaryDirectory(prefix="sm-outside-")
    atexit.register(made.cleanup)
    return Path(made.name)


@cache
def library() -> Path:
    """The compiled library."""
    made = folder() / "outside.so"
    sources = sorted(SOURCES.glob("*.c"))
    subprocess.run([*COMPILE, "-o", str(made), *map(str, sources)], check=True, timeout=120)
    return made
