"""What a datapath notes about each disk that it serves, so that it is found again after a restart.

The note is written before the process starts; without a living process it is worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from sm import durable
from sm.cowutil.base import ImageRef
from sm.datapath.base import Disk
from sm.owner import boot_id, start_time


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
        self._folder.mkdir(parents=True, exist_ok=True)
        content = asdict(note)
        content["chain"] = [[str(image.path), image.format] for image in note.chain]
        content["path"] = None if note.path is None else str(note.path)
        durable.write_file(self._path(note.disk), json.dumps(content).encode("utf-8"))
        return note

    def read(self, disk: Disk) -> Note | None:
        """The note of a disk, if there is one."""
        try:
            return _parse(self._path(disk).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def has(self, disk: Disk) -> bool:
        """Whether there is a note of a disk."""
        return self._path(disk).exists()

    def any(self) -> bool:
        """Whether there is a note of any disk."""
        return next(self._paths(), None) is not None

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

    def __iter__(self) -> Iterator[Note]:
        for path in sorted(self._paths()):
            try:
                yield _parse(path.read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue  # its disk was closed in this moment

    def _paths(self) -> Iterator[Path]:
        return self._folder.glob("[!.]*.json")

    def _path(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.json"


def _parse(text: str) -> Note:
    content = json.loads(text)
    content["disk"] = Disk(**content["disk"])
    content["chain"] = tuple(ImageRef(Path(path), name) for path, name in content["chain"])
    content["path"] = None if content["path"] is None else Path(content["path"])
    return Note(**content)
