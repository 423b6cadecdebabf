"""What a datapath notes about each disk that it serves, so that it is found again after a restart.

The note is written before the process starts; without a living process it is worth nothing.
One that cannot be read is an error for its disk alone.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sm import decode, durable
from sm.cowutil.base import ImageRef
from sm.datapath.base import Disk
from sm.datapath.sockets import release_folder
from sm.errors import StateUnreadable
from sm.owner import boot_id, start_time

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Note:
    """One disk: `chain` uppermost first; `pid` and `started` name the process, 0 before it lives.

    `path`: the file that shows the disk, where it is not served over NBD. `paused` from before a
    pause begins until after it has ended. `pace`: of a disk whose volume grows, see
    `Datapath.open`. `extra` is the datapath's own. `token` is what the process carries from its
    first moment; see `sm.datapath.tokens`.
    """

    disk: Disk
    chain: tuple[ImageRef, ...]
    read_only: bool
    path: Path | None = None
    paused: bool = False
    pace: int | None = None
    boot: str = ""
    pid: int = 0
    started: int = 0
    extra: dict[str, Any] = field(default_factory=dict)
    token: str = ""

    @property
    def alive(self) -> bool:
        """Whether its process runs: same boot, same number, same start."""
        return self.boot == boot_id() and self.pid > 0 and start_time(self.pid) == self.started

    @property
    def starting(self) -> bool:
        """Whether a start was noted on this boot, and no process yet."""
        return self.pid == 0 and self.boot in ("", boot_id())

    def of_process(self, pid: int) -> Note:
        """The same with its process."""
        return replace(self, boot=boot_id(), pid=pid, started=start_time(pid) or 0)


class Notes:
    """The notes of one kind of datapath in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(self, note: Note) -> Note:
        """Replace the note of a disk, for good."""
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        content = asdict(note)
        content["chain"] = [[str(image.path), image.format] for image in note.chain]
        content["path"] = None if note.path is None else str(note.path)
        durable.write_file(self._path(note.disk), json.dumps(content).encode("utf-8"))
        return note

    def read(self, disk: Disk) -> Note | None:
        """The note of a disk, if there is one; raises `StateUnreadable`."""
        try:
            return self._read(self._path(disk))
        except FileNotFoundError:
            return None

    def has(self, disk: Disk) -> bool:
        """Whether there is a note of a disk."""
        return self._path(disk).exists()

    def any(self) -> bool:
        """Whether there is a note of any disk."""
        return bool(self._paths())

    def changed(self, disk: Disk) -> int:
        """A number that is another one once the note of a disk was written; 0 without one."""
        try:
            return self._path(disk).stat().st_mtime_ns
        except FileNotFoundError:
            return 0

    def forget(self, disk: Disk) -> None:
        """Remove the note of a disk."""
        if self._folder.is_dir():
            durable.remove(self._path(disk))
            release_folder(self._folder, self.any)

    def __iter__(self) -> Iterator[Note]:
        """All notes that can be read."""
        for path in self._paths():
            try:
                yield self._read(path)
            except FileNotFoundError:
                continue  # forgotten since
            except StateUnreadable as error:
                log.warning("%s", error)

    def unreadable(self) -> dict[str, str]:
        """The VDI of each note that cannot be read, and why."""
        found = {}
        for path in self._paths():
            try:
                self._read(path)
            except FileNotFoundError:
                continue
            except StateUnreadable as error:
                found[path.stem] = error.detail
        return found

    def set_aside(self, vdi: str) -> None:
        """Give a note another name, under which it counts for nothing."""
        path = self._folder / f"{vdi}.json"
        durable.rename(path, path.with_suffix(f".aside-{time.time_ns()}"))

    def _paths(self) -> list[Path]:
        return sorted(self._folder.glob("[!.]*.json"))

    def _read(self, path: Path) -> Note:
        try:
            note = _parse(durable.read_file(path))
            if note.disk.vdi != path.stem:
                raise ValueError(f"it is of VDI {note.disk.vdi[:40]!r}")
        except ValueError as error:
            raise StateUnreadable(
                f"which process serves VDI {path.stem} cannot be known: {path}: {error}"
            ) from error
        return note

    def _path(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.json"


_REQUIRED: Mapping[str, decode.Types] = {
    "disk": (dict,),
    "chain": (list,),
    "read_only": (bool,),
    "path": (str, type(None)),
    "paused": (bool,),
    "pace": (int, type(None)),
    "boot": (str,),
    "pid": (int,),
    "started": (int,),
    "extra": (dict,),
}

_OF_LATER_VERSIONS: Mapping[str, decode.Types] = {"token": (str,)}


def _parse(content: bytes) -> Note:
    """A note from its file; ValueError for something else."""
    found = decode.members(content, _REQUIRED, _OF_LATER_VERSIONS)
    disk = decode.checked(found["disk"], {"sr": (str,), "vdi": (str,)})
    chain = [decode.texts(image) for image in found["chain"]]
    if any(len(image) != 2 for image in chain):
        raise ValueError("chain has an image without path or format")
    path = found["path"]
    return Note(
        **{
            **found,
            "disk": Disk(**disk),
            "chain": tuple(ImageRef(Path(path), name) for path, name in chain),
            "path": None if path is None else Path(path),
        }
    )
