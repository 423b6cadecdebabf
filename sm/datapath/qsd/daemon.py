"""The daemon of a disk as a process: how it is started, found, reached and told to end."""

from __future__ import annotations

import os
import struct
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sm import durable
from sm.cowutil.base import ImageRef
from sm.datapath.base import DatapathFailed, Disk
from sm.datapath.own_process import NBD, OwnProcessDatapath
from sm.datapath.qsd import mount
from sm.datapath.qsd.graph import command_line, file_export, nbd_export
from sm.datapath.qsd.record import first_extra, nodes_of
from sm.datapath.state import Note
from sm.datapath.turns import turn
from sm.nbd.flush import flush
from sm.owner import start_time

if TYPE_CHECKING:
    from sm.datapath.qsd.qmp import Qmp

WATCHER = "watch"
"""The suffix of the socket for whoever watches a leaf that grows."""

FLUSH_SECONDS = 30.0
"""For the daemon to bring to the storage what it has in memory."""

HIDDEN = "nbd-hidden"
"""The suffix of the users' socket during a pause."""


class QsdProcess(OwnProcessDatapath):
    """One qemu-storage-daemon for each disk."""

    name = "qsd"
    control_suffix = "qmp"

    def _first_extra(self, chain: Sequence[ImageRef]) -> dict[str, Any]:
        return first_extra(chain)

    def _prepare(self, note: Note) -> None:
        if note.path is not None:
            mount.prepare(note.path)

    def _command(self, note: Note) -> list[str]:
        monitors = [self.control_suffix, *([] if note.pace is None else [WATCHER])]
        if note.path is not None:
            export = file_export(note.path, read_only=note.read_only)
        else:
            socket = self._socket(note.disk, NBD)
            export = nbd_export(note.disk.vdi, socket, read_only=note.read_only)
        return command_line(
            nodes_of(note),
            export,
            read_only=note.read_only,
            monitors=[self._socket(note.disk, suffix) for suffix in monitors],
            pid_file=self._pid_file(note.disk),
            pace=note.pace,
        )

    def _adopt(self, note: Note) -> Note | None:
        """Complete a note with the daemon that names our file for its number when it is started."""
        if note.pid:
            return note
        path = self._pid_file(note.disk)
        try:
            pid = int(path.read_text(encoding="ascii"))
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        if os.fsencode(path) not in arguments or start_time(pid) is None:
            return None
        return self._notes.write(note.of_process(pid))

    def _ask_to_end(self, note: Note) -> None:
        """The daemon ends without a word about its last flush, so it is asked for one before."""
        failure: DatapathFailed | None = None
        try:
            self._flush(note)
        except DatapathFailed as error:
            failure = error
        with self._qmp(note.disk) as qmp:
            qmp.call("quit")
        if failure is not None:
            raise failure

    def _flush(self, note: Note) -> None:
        """Have all that was written made durable, as a user would; nothing where users wait.

        Raises `DatapathFailed` where that fails, also when an earlier flush has failed since the
        images were opened: the daemon remembers it, and would forget it with the files closed.
        """
        if note.read_only or note.paused:
            return
        socket = self._socket(note.disk, NBD)
        try:
            if note.path is None:
                flush(socket, note.disk.vdi, FLUSH_SECONDS)
            elif mount.is_mounted(note.path):
                durable.sync_file(note.path)
        except (FileNotFoundError, ConnectionRefusedError):
            return  # out of reach while users are held, or there is no daemon any more
        except (OSError, struct.error) as error:
            raise DatapathFailed(f"the daemon cannot flush: {error}") from error

    def _remove_traces(self, note: Note) -> None:
        self._pid_file(note.disk).unlink(missing_ok=True)
        for suffix in (HIDDEN, WATCHER):
            self._socket(note.disk, suffix).unlink(missing_ok=True)
        if note.path is not None:
            mount.clear(note.path)

    def _turn(self, disk: Disk) -> AbstractContextManager[None]:
        """A turn at a disk that may be held at any moment; any other is nobody else's."""
        note = self._notes.read(disk)
        if note is None or note.pace is None:
            return nullcontext()
        return turn(self._folder, disk)

    def _qmp(self, disk: Disk) -> Qmp:
        from sm.datapath.qsd.qmp import Qmp  # noqa: PLC0415 - asyncio is slow to import

        return Qmp(self._socket(disk, self.control_suffix))

    def _pid_file(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.pid"

    def _hide(self, disk: Disk) -> None:
        """Let no client connect; those that try find no socket."""
        with suppress(FileNotFoundError):
            self._socket(disk, NBD).rename(self._socket(disk, HIDDEN))

    def _show(self, disk: Disk) -> None:
        with suppress(FileNotFoundError):
            self._socket(disk, HIDDEN).rename(self._socket(disk, NBD))
