"""State that a test shares with processes: a file that both map, and the variables that name it."""

from __future__ import annotations

import ctypes
import mmap
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

from tests.support.outside.library import folder, library

State = TypeVar("State", bound=ctypes.Structure)


@contextmanager
def shared(variable: str, kind: type[State]) -> Iterator[tuple[State, dict[str, str]]]:
    """State of zeroes, and the environment in which processes go by it.

    A process that is still there at the end keeps what was said last.
    """
    size = ctypes.sizeof(kind)
    with tempfile.NamedTemporaryFile(dir=folder(), prefix=variable) as file:
        file.truncate(size)
        # Not closed: whoever looks at the state later must not find the memory gone.
        mapped = mmap.mmap(file.fileno(), size)
        yield kind.from_buffer(mapped), {"LD_PRELOAD": str(library()), variable: file.name}
