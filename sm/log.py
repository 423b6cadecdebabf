"""Where log lines go: a file under the root, syslog, or standard error. Never standard output."""

from __future__ import annotations

import logging
import logging.handlers
import sys
from pathlib import Path

FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s"


def start(target: str, file: Path, *, verbose: bool = False) -> None:
    """Send the log of this process to `target`: `file`, `syslog` or `stderr`.

    A log that cannot be opened is no reason to refuse a request: then standard error serves.
    """
    handler: logging.Handler
    try:
        if target == "syslog":
            handler = logging.handlers.SysLogHandler("/dev/log")
        elif target == "file":
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8")
        else:
            handler = logging.StreamHandler(sys.stderr)
    except OSError:
        handler = logging.StreamHandler(sys.stderr)
        handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter(FORMAT))
    root = logging.getLogger("sm")
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False
