"""What datapaths have in common that start a process of their own for each disk.

A note is written before the process starts and completed once it lives. A crash of ours in between
leaves a note without a process, or a process that is adopted by whoever asks next. One that is not
ready to be asked carries the token of the note, and is ended by whoever opens or closes the disk
next: it has never had a user.
"""

from __future__ import annotations

import os
import signal
import time
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from urllib.parse import quote

from sm import process
from sm.cowutil.base import ImageRef
from sm.datapath import tokens
from sm.datapath.base import (
    Datapath,
    DatapathFailed,
    Disk,
    Endpoint,
    OutcomeUnknown,
    Served,
)
from sm.datapath.losses import Losses
from sm.datapath.sockets import socket_folder
from sm.datapath.state import Note, Notes
from sm.errors import VdiInUse, VdiMissing
from sm.owner import boot_id, start_time

START_SECONDS = 30.0
STOP_SECONDS = 40.0

NBD = "nbd"
"""The suffix of the socket for a disk's users."""


class OwnProcessDatapath(Datapath):
    """One process for each disk, with its notes and sockets below `folder`."""

    control_suffix: ClassVar[str]
    """The suffix of the socket on which a process is told what to do."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / self.name
        self._notes = Notes(self._folder)
        self._losses = Losses(self._folder)

    def open(
        self,
        disk: Disk,
        chain: Sequence[ImageRef],
        *,
        read_only: bool,
        path: Path | None = None,
        pace: int | None = None,
    ) -> Endpoint:
        """Start a process; it has opened everything when this returns."""
        note = self._alive(disk)
        if note is not None:
            told = tuple(chain), read_only, path, pace
            if (note.chain, note.read_only, note.path, note.pace) != told:
                raise VdiInUse(f"{disk.vdi} is served by process {note.pid} in another way")
            return self._endpoint(note)
        if not chain:
            raise DatapathFailed(f"{disk.vdi}: an empty chain")
        self._clear(disk)
        self._losses.require_sound(disk, chain)
        extra = self._first_extra(chain)
        token = tokens.new()
        note = Note(
            disk,
            tuple(chain),
            read_only,
            path,
            pace=pace,
            boot=boot_id(),
            extra=extra,
            token=token,
        )
        self._prepare(note)
        self._notes.write(note)
        try:
            carried = {tokens.VARIABLE: token}
            command = self._command(note)
            process.run(command, timeout=START_SECONDS, limited=False, environment=carried)
        except BaseException:
            # It may be serving already, when it was we who were interrupted.
            if self._alive(disk) is None:
                self._clear(disk)
            raise
        endpoint = self._endpoint(self._adopted(disk))
        self._losses.forget(disk)
        return endpoint

    def close(self, disk: Disk) -> None:
        """Have the process flush and end; make it end if it does not.

        Raises `DatapathFailed` when it ended and could not make everything durable; repeated, too,
        until the disk is opened again.
        """
        note = self._alive(disk)
        failure = None if note is None else self._end(note)
        if failure is not None and note is not None and not note.read_only:
            self._losses.add(disk, failure.detail)
        self._clear(disk)
        self._losses.tell(disk)
        if failure is not None:
            raise failure  # of a disk that was only read, which has nothing to lose

    def find(self, disk: Disk) -> Served | None:
        """The process of a disk."""
        note = self._alive(disk)
        return None if note is None else self._served(note)

    def served(self) -> list[Served]:
        """All living processes that have a note."""
        found = [self._alive(note.disk) for note in self._notes]
        return [self._served(note) for note in found if note is not None]

    def half_started(self) -> list[Disk]:
        """The disks whose notes have no process, and none that can be adopted."""
        return [each.disk for each in self._notes if not each.pid and not self._adopt(each)]

    def settle(self, disk: Disk) -> None:
        """End a process that carries the token of a note without one."""
        note = self._notes.read(disk)
        if note is not None and not note.pid and self._adopt(note) is None:
            self._clear(disk)

    def growing(self) -> list[Served]:
        """The disks of living processes whose notes have a pace; no process is asked."""
        return [self._served(note) for note in self._notes if note.pace is not None and note.alive]

    # What differs

    def _first_extra(self, chain: Sequence[ImageRef]) -> dict[str, Any]:
        """What else is noted of a chain that is about to be opened."""
        return {}

    def _prepare(self, note: Note) -> None:
        """Make what its process needs to find, or refuse."""

    @abstractmethod
    def _command(self, note: Note) -> list[str]:
        """What starts the process, and returns once it has opened everything."""

    @abstractmethod
    def _adopt(self, note: Note) -> Note | None:
        """Bring a note up to what its process says; None when there is no process.

        The note has no process yet, or one that lives.
        """

    @abstractmethod
    def _ask_to_end(self, note: Note) -> None:
        """Tell the process to flush and end.

        `OutcomeUnknown` when it does not answer, `DatapathFailed` when it ends without a good
        flush.
        """

    def _remove_traces(self, note: Note) -> None:
        """Remove what a process that has ended left behind, besides its sockets."""

    # Notes and processes

    def _alive(self, disk: Disk) -> Note | None:
        """The note of a disk whose process lives."""
        note = self._notes.read(disk)
        if note is None or (note.pid and not note.alive):
            return None
        return self._adopt(note)

    def _require(self, disk: Disk) -> Note:
        note = self._alive(disk)
        if note is None:
            raise VdiMissing(f"no process serves {disk.vdi}")
        return note

    def _adopted(self, disk: Disk) -> Note:
        note = self._alive(disk)
        if note is None:
            raise DatapathFailed(f"the process of {disk.vdi} ended at once")
        return note

    def _end(self, note: Note) -> DatapathFailed | None:
        """End the process; returns what it could not do, None when all was made durable."""
        failure: DatapathFailed | None = None
        try:
            self._ask_to_end(note)
        except OutcomeUnknown:
            _signal(note, signal.SIGTERM)
        except DatapathFailed as error:
            failure = error
        if not _ended(note, STOP_SECONDS):
            _signal(note, signal.SIGKILL)
            if not _ended(note, STOP_SECONDS):
                raise OutcomeUnknown(f"process {note.pid} of {note.disk.vdi} does not end")
            failure = failure or DatapathFailed(f"process {note.pid} had to be killed")
        return failure

    def _clear(self, disk: Disk) -> None:
        """Remove everything of a disk that has no process, or one that was never ready."""
        note = self._notes.read(disk)
        if note is not None and not note.pid and note.token:
            tokens.end(note.token)
        for suffix in (self.control_suffix, NBD):
            self._socket(disk, suffix).unlink(missing_ok=True)
        if note is not None:
            self._remove_traces(note)
            self._notes.forget(disk)

    def _socket(self, disk: Disk, suffix: str) -> Path:
        return socket_folder(self._folder) / f"{disk.vdi}.{suffix}"

    def _endpoint(self, note: Note) -> Endpoint:
        if note.path is not None:
            return Endpoint(None, None, note.path, note.pid)
        socket = self._socket(note.disk, NBD)
        uri = f"nbd+unix:///{quote(note.disk.vdi)}?socket={quote(str(socket))}"
        return Endpoint(uri, socket, None, note.pid)

    def _served(self, note: Note) -> Served:
        endpoint = self._endpoint(note)
        mode, grows = note.read_only, note.pace is not None
        return Served(note.disk, self.name, endpoint, note.chain, mode, note.paused, grows)


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
