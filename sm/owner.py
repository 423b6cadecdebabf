"""Who holds a lock, a claim or a journal entry: enough to show it, and to see that it is stale."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Self

from sm import decode


@cache
def boot_id() -> str:
    """The identity of this boot of this machine."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def start_time(pid: int) -> int | None:
    """When process `pid` started, in clock ticks since boot; None when it has ended.

    Together with the number it names one process for ever: numbers are used again. A zombie has
    ended, unless other threads of it are still on their way out, with its files open and locked.
    Field 22 of /proc/PID/stat, counted after the name, which may hold blanks (proc(5)).
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
        threads = len(os.listdir(f"/proc/{pid}/task"))  # noqa: PTH208 - only their number
    except (FileNotFoundError, ProcessLookupError):
        return None
    fields = text.rpartition(")")[2].split()
    return None if fields[0] in "ZX" and threads <= 1 else int(fields[19])


_MEMBERS: dict[str, decode.Types] = {
    "host": (str,),
    "boot": (str,),
    "pid": (int,),
    "started": (int,),
    "operation": (str,),
}


@dataclass(frozen=True, slots=True)
class Owner:
    """One process on one boot of one host, and what it is doing."""

    host: str
    boot: str
    pid: int
    started: int
    operation: str

    @classmethod
    def this_process(cls, host: str, operation: str) -> Self:
        """The calling process, on host `host` (UUID)."""
        pid = os.getpid()
        return cls(host, boot_id(), pid, start_time(pid) or 0, operation)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read what `text` returned; ValueError when it is something else."""
        try:
            return cls(**decode.members(text, _MEMBERS))
        except ValueError as error:
            raise ValueError(f"not an owner: {text[:100]!r}: {error}") from error

    @property
    def text(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self), separators=(",", ":"))

    def ended(self, host: str) -> bool:
        """Whether this owner is known to be gone, judged on host `host`; another host's is not."""
        if self.host != host:
            return False
        return self.boot != boot_id() or start_time(self.pid) != self.started

    def __str__(self) -> str:
        return f"{self.operation} (process {self.pid} on host {self.host})"


def has_ended(text: str, host: str) -> bool:
    """Whether `text` names an owner that is known to be gone; see `Owner.ended`.

    What names no owner of ours is somebody else's, and may be in use.
    """
    try:
        return Owner.parse(text).ended(host)
    except ValueError:
        return False


def host_of(text: str) -> str | None:
    """The UUID of the host of an owner; None for what names no owner of ours."""
    try:
        return Owner.parse(text).host
    except ValueError:
        return None
