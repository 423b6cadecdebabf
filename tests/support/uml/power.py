"""The power of a guest, cut from inside."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import NoReturn


def cut() -> NoReturn:
    """Switch this guest off at once: what its kernel has not written to a disk by now is lost."""
    Path("/proc/sysrq-trigger").write_text("o")
    while True:
        signal.pause()
