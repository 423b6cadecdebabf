"""Where log lines go, and what they carry. Never to standard output.

A file under the root gets one JSON object a line, journald gets fields, syslog and standard error
get text. What a line is about (SR, VDI, job) is said once with `about`, and is then in each line
that is written meanwhile by the same thread of work.
"""

from __future__ import annotations

import json
import logging
import logging.handlers
import socket
import struct
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path

from sm.errors import SmError

FORMAT = "%(asctime)s %(process)d %(levelname)s %(name)s:%(about)s %(message)s"
JOURNAL = Path("/run/systemd/journal/socket")

FIELDS = ("sr", "vdi", "job", "code")
"""What a line may be about; `code` is the SMAPI code of the error that it tells of."""

PRIORITIES = ((logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6))
"""From level to syslog's number, the first that fits; else 7."""

_NOTHING: Mapping[str, str] = {}
_about: ContextVar[Mapping[str, str]] = ContextVar("about", default=_NOTHING)


@contextmanager
def about(**fields: str) -> Iterator[None]:
    """Let each line that is written in the block say these fields, of `FIELDS`; none if empty."""
    given = {name: value for name, value in fields.items() if value}
    token = _about.set({**_about.get(), **given})
    try:
        yield
    finally:
        _about.reset(token)


def start(target: str, file: Path, *, verbose: bool = False, journal: Path = JOURNAL) -> None:
    """Send the log of this process to `target`: `file`, `journald`, `syslog` or `stderr`.

    A log that cannot be opened is no reason to refuse a request: then standard error serves.
    """
    handler: logging.Handler
    formatter: logging.Formatter = logging.Formatter(FORMAT)
    try:
        if target == "syslog":
            handler = logging.handlers.SysLogHandler("/dev/log")
        elif target == "journald":
            handler = JournalHandler(journal)
            formatter = logging.Formatter("%(message)s")
        elif target == "file":
            file.parent.mkdir(parents=True, exist_ok=True)
            handler = logging.FileHandler(file, encoding="utf-8", errors="backslashreplace")
            formatter = JsonFormatter()
        else:
            handler = logging.StreamHandler(sys.stderr)
    except OSError:
        handler, formatter = logging.StreamHandler(sys.stderr), logging.Formatter(FORMAT)
        handler.setLevel(logging.WARNING)
    handler.addFilter(_say_about)
    handler.setFormatter(formatter)
    root = logging.getLogger("sm")
    for old in root.handlers:
        old.close()
    root.handlers[:] = [handler]
    root.setLevel(logging.DEBUG if verbose else logging.INFO)
    root.propagate = False


def place() -> str | None:
    """Where the log of this process goes; None before it has begun."""
    for handler in logging.getLogger("sm").handlers:
        if isinstance(handler, logging.FileHandler):
            return handler.baseFilename
        return {"SysLogHandler": "syslog", "JournalHandler": "the journal"}.get(
            type(handler).__name__, "standard error"
        )
    return None


def fields_of(record: logging.LogRecord) -> dict[str, str]:
    """What a line is about: what the block said, what the call gave as `extra`, and the code."""
    found = dict(_about.get())
    found.update({name: str(record.__dict__[name]) for name in FIELDS if name in record.__dict__})
    error = record.exc_info[1] if record.exc_info else None
    if isinstance(error, SmError):
        found.setdefault("code", error.code_name)
    return found


def _say_about(record: logging.LogRecord) -> bool:
    fields = fields_of(record)
    record.__dict__["fields"] = fields
    said = " ".join(f"{name}={fields[name]}" for name in FIELDS if name in fields)
    record.__dict__["about"] = f" [{said}]" if said else ""
    return True


class JsonFormatter(logging.Formatter):
    """One JSON object: `time` (ISO 8601, UTC), `level`, `logger`, `process`, `message`.

    With it the fields, and `exception` with its traceback where there was one.
    """

    def format(self, record: logging.LogRecord) -> str:
        """The line, without its end."""
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "process": record.process,
            **record.__dict__.get("fields", {}),
            "message": record.getMessage(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False)


class JournalHandler(logging.Handler):
    """Journald's native protocol: a datagram of fields (systemd.io/JOURNAL_NATIVE_PROTOCOL).

    A value of one line is `NAME=value`; any other has its length before it, 8 bytes, little-endian.
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            self._socket.connect(str(path))
        except OSError:
            self._socket.close()
            raise

    def emit(self, record: logging.LogRecord) -> None:
        """Send one line; one that cannot be sent goes the way of logging's own failures."""
        priority = next((n for level, n in PRIORITIES if record.levelno >= level), 7)
        fields = {
            "MESSAGE": self.format(record),
            "PRIORITY": str(priority),
            "SYSLOG_IDENTIFIER": "sm",
            "LOGGER": record.name,
            "CODE_FUNC": record.funcName or "",
            **{f"SM_{name.upper()}": value for name, value in fields_of(record).items()},
        }
        try:
            self._socket.send(b"".join(_field(name, value) for name, value in fields.items()))
        except OSError:
            self.handleError(record)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()
        super().close()


def _field(name: str, value: str) -> bytes:
    content = value.encode("utf-8", "replace")
    if b"\n" not in content:
        return name.encode("ascii") + b"=" + content + b"\n"
    return name.encode("ascii") + b"\n" + struct.pack("<Q", len(content)) + content + b"\n"
