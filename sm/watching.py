"""Whether somebody on this host watches the disks whose volumes grow: the processes of `sm.thin`.

They are started when the first such disk is activated, and end by themselves when none is left. A
note in the run folder names the one that lives; whoever ends takes it away and then looks again, so
that a disk that was opened meanwhile is seen by one side or the other. Of each disk that is watched
there is a note as well.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path

from sm import process
from sm.config import Settings
from sm.datapath.base import Disk, GrowingDatapath, Served
from sm.datapath.choose import Datapaths
from sm.durable import write_file
from sm.errors import SmError
from sm.kick import send
from sm.owner import Owner, has_ended

MODULE = "sm.thin.keeper"

START_SECONDS = 120.0
"""For a disk to be watched, with the start of who does so on a host that is busy."""

AGAIN_SECONDS = 2.0
POLL_SECONDS = 0.02


def folder(settings: Settings) -> Path:
    """Where the notes are, and the socket."""
    return settings.run / "thin"


def socket_path(settings: Settings) -> Path:
    """Where the watcher listens for datagrams that have it look at once."""
    return folder(settings) / "watcher.sock"


def growing(settings: Settings) -> list[tuple[GrowingDatapath, Served]]:
    """The disks of this host whose volumes grow, each with what serves it."""
    return [
        (datapath, served)
        for datapath in Datapaths(settings).noted()
        if isinstance(datapath, GrowingDatapath)
        for served in datapath.growing()
    ]


def ensure(settings: Settings) -> process.Child | None:
    """See that the disks are watched, if there are any, and that whoever does so looks.

    Returns the keeper that was started, if there was none.
    """
    if not growing(settings):
        return None
    if is_kept(settings):
        send(socket_path(settings), b"look")
        return None
    return process.spawn([sys.executable, "-m", MODULE, "--root", str(settings.root)])


def require_watched(settings: Settings, disk: Disk) -> None:
    """Wait until a disk that has just been opened is watched; raises `SmError` if it is not."""
    deadline = time.monotonic() + START_SECONDS
    again = 0.0
    started: process.Child | None = None
    while _living(disk_note(settings, disk), settings) is None:
        now = time.monotonic()
        if now > deadline:
            raise SmError(f"nobody watches how {disk.vdi} grows; see the log for {MODULE}")
        # Where a start takes long, another one beside it would only make it longer.
        if now > again and (started is None or started.poll() is not None):
            started = ensure(settings)
            again = now + AGAIN_SECONDS
        time.sleep(POLL_SECONDS)


def keeper_note(settings: Settings) -> Path:
    """Names the process that sees to it that there is a watcher."""
    return folder(settings) / "keeper"


def disk_note(settings: Settings, disk: Disk) -> Path:
    """Names the process that watches a disk."""
    return folder(settings) / f"{disk.sr}.{disk.vdi}"


def sign(settings: Settings, note: Path) -> None:
    """Be the one whom a note names."""
    note.parent.mkdir(parents=True, exist_ok=True)
    write_file(note, Owner.this_process(settings.host_uuid, "thin").text.encode("utf-8"))


def is_kept(settings: Settings) -> bool:
    """Whether there is a keeper that lives."""
    return keeper(settings) is not None


def keeper(settings: Settings) -> str | None:
    """The keeper that lives; None where there is none. One that is just ending may still count."""
    return _living(keeper_note(settings), settings)


def _living(note: Path, settings: Settings) -> str | None:
    """The process that a note names, if it lives."""
    with suppress(FileNotFoundError):
        text = note.read_text(encoding="utf-8")
        return None if has_ended(text, settings.host_uuid) else text
    return None
