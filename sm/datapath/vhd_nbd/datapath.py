"""The datapath of VHD chains where there is no tapdisk: a process of our own for each disk."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar
from urllib.parse import quote

from sm import process
from sm.cowutil.base import ImageRef
from sm.cowutil.raw import RawFormat
from sm.cowutil.vhd.util import VhdUtil
from sm.datapath.base import Datapath, DatapathFailed, Disk, Endpoint, OutcomeUnknown, Served
from sm.datapath.sockets import socket_folder
from sm.datapath.state import Note, Notes
from sm.datapath.vhd_nbd import control
from sm.errors import VdiInUse, VdiMissing
from sm.owner import start_time

EXPORT = "vdi"
START_SECONDS = 30.0
CALL_SECONDS = 60.0
"""For a refresh or an end: requests under way, a flush, and opening the chain."""

STATUS_SECONDS = 5.0
STOP_SECONDS = 40.0
MODULE = "sm.datapath.vhd_nbd.process"


class VhdNbdDatapath(Datapath):
    """One process for each disk, with its notes and sockets below `folder`.

    The leaf is locked against a second writer (flock(2)) as long as it is served for writing.
    """

    name = "vhd_nbd"
    formats: ClassVar[frozenset[str]] = frozenset({VhdUtil.name, RawFormat.name})

    def __init__(self, folder: Path) -> None:
        self._folder = folder / self.name
        self._notes = Notes(self._folder)

    def open(self, disk: Disk, chain: Sequence[ImageRef], *, read_only: bool) -> Endpoint:
        """Start a process; it has opened everything when this returns.

        A crash of ours leaves a note without process, or a process that is adopted later.
        """
        note = self._alive(disk)
        if note is not None:
            if note.chain != tuple(chain) or note.read_only != read_only:
                raise VdiInUse(f"{disk.vdi} is served by process {note.pid} in another way")
            return self._endpoint(disk, note.pid)
        self._clear(disk)
        self._notes.write(disk, chain, read_only=read_only)
        wanted = {
            "nbd": str(self._socket(disk, "nbd")),
            "control": str(self._socket(disk, "ctl")),
            "read_only": read_only,
            "chain": _pairs(chain),
        }
        argv = [sys.executable, "-m", MODULE, json.dumps(wanted, ensure_ascii=False)]
        try:
            process.run(argv, timeout=START_SECONDS, limited=False)
            adopted = self._adopt(disk)
        except BaseException:
            self._clear(disk)
            raise
        return self._endpoint(disk, adopted.pid)

    def close(self, disk: Disk) -> None:
        """Have the process flush and end; make it end if it does not.

        Raises `DatapathFailed` when it ended and could not make everything durable.
        """
        note = self._alive(disk)
        failure = None if note is None else self._end(disk, note)
        self._clear(disk)
        if failure is not None:
            raise failure

    def find(self, disk: Disk) -> Served | None:
        """The process of a disk."""
        note = self._alive(disk)
        return None if note is None else self._served(note)

    def served(self) -> list[Served]:
        """All living processes that have a note."""
        found = [self._alive(note.disk) for note in self._notes]
        return [self._served(note) for note in found if note is not None]

    def refresh(self, disk: Disk, chain: Sequence[ImageRef]) -> None:
        """Have the process open the chain anew while its clients wait; also for the same chain.

        Where only parents differ, the leaf is made to name the first of them.
        """
        note = self._require(disk)
        request = {"do": "refresh", "chain": _pairs(chain)}
        control.call(self._socket(disk, "ctl"), request, CALL_SECONDS)
        self._notes.write(disk, chain, read_only=note.read_only, pid=note.pid)

    # Notes and processes

    def _alive(self, disk: Disk) -> Note | None:
        """The note of a disk whose process lives; one that was starting when we ended is adopted.

        A chain that was replaced when we ended is noted too.
        """
        note = self._notes.read(disk)
        if note is None or (note.pid and not note.alive):
            return None
        try:
            return self._adopt(disk)
        except OutcomeUnknown:
            return note if note.alive else None

    def _require(self, disk: Disk) -> Note:
        note = self._alive(disk)
        if note is None:
            raise VdiMissing(f"no process serves {disk.vdi}")
        return note

    def _adopt(self, disk: Disk) -> Note:
        """Make the note say what the process says of itself."""
        answer = control.call(self._socket(disk, "ctl"), {"do": "status"}, STATUS_SECONDS)
        note = self._notes.read(disk)
        if note is None:
            raise DatapathFailed(f"the note of {disk.vdi} is gone")
        chain = tuple(ImageRef(Path(path), name) for path, name in answer["chain"])
        if (note.pid, note.chain) == (answer["pid"], chain):
            return note
        return self._notes.write(disk, chain, read_only=note.read_only, pid=answer["pid"])

    def _end(self, disk: Disk, note: Note) -> DatapathFailed | None:
        """End the process; returns what it could not do, None when all was made durable."""
        failure: DatapathFailed | None = None
        try:
            control.call(self._socket(disk, "ctl"), {"do": "quit"}, CALL_SECONDS)
        except OutcomeUnknown:
            _signal(note, signal.SIGTERM)
        except DatapathFailed as error:
            failure = error
        if not _ended(note, STOP_SECONDS):
            _signal(note, signal.SIGKILL)
            if not _ended(note, STOP_SECONDS):
                raise OutcomeUnknown(f"process {note.pid} of {disk.vdi} does not end")
            failure = failure or DatapathFailed(f"process {note.pid} had to be killed")
        return failure

    def _clear(self, disk: Disk) -> None:
        for suffix in ("ctl", "nbd"):
            self._socket(disk, suffix).unlink(missing_ok=True)
        self._notes.forget(disk)

    def _socket(self, disk: Disk, suffix: str) -> Path:
        return socket_folder(self._folder) / f"{disk.vdi}.{suffix}"

    def _endpoint(self, disk: Disk, pid: int) -> Endpoint:
        socket = quote(str(self._socket(disk, "nbd")))
        return Endpoint(f"nbd+unix:///{EXPORT}?socket={socket}", None, pid)

    def _served(self, note: Note) -> Served:
        endpoint = self._endpoint(note.disk, note.pid)
        return Served(note.disk, self.name, endpoint, note.chain, note.read_only)


def _pairs(chain: Sequence[ImageRef]) -> list[list[str]]:
    return [[str(ref.path), ref.format] for ref in chain]


def _signal(note: Note, number: signal.Signals) -> None:
    if note.alive:
        os.kill(note.pid, number)


def _ended(note: Note, seconds: float) -> bool:
    deadline = time.monotonic() + seconds
    while start_time(note.pid) == note.started:
        if time.monotonic() > deadline:
            return False
        time.sleep(0.005)
    return True
