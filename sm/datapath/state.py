"""What a datapath notes about each disk that it serves, so that it is found again after a restart.

The note is written before the process starts; without a living process it is worth nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sm import durable
from sm.cowutil.base import ImageRef
from sm.datapath.base import Disk
from sm.owner import boot_id, start_time


@dataclass(frozen=True, slots=True)
class Note:
    """One disk: `chain` uppermost first; `pid` and `started` name the process, 0 before it lives.

    `extra` is the datapath's own.
    """

    disk: Disk
    chain: tuple[ImageRef, ...]
    read_only: bool
    boot: str
    pid: int
    started: int
    extra: dict[str, Any]

    @property
    def alive(self) -> bool:
        """Whether its process runs: same boot, same number, same start."""
        return self.boot == boot_id() and self.pid > 0 and start_time(self.pid) == self.started


class Notes:
    """The notes of one kind of datapath in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def write(
        self,
        disk: Disk,
        chain: Sequence[ImageRef],
        *,
        read_only: bool,
        pid: int = 0,
        extra: dict[str, Any] | None = None,
    ) -> Note:
        """Replace the note of a disk, for good."""
        started = (start_time(pid) or 0) if pid else 0
        note = Note(disk, tuple(chain), read_only, boot_id(), pid, started, extra or {})
        self._folder.mkdir(parents=True, exist_ok=True)
        content = asdict(note)
        content["chain"] = [[str(image.path), image.format] for image in chain]
        durable.write_file(self._path(disk), json.dumps(content).encode("utf-8"))
        return note

    def read(self, disk: Disk) -> Note | None:
        """The note of a disk, if there is one."""
        try:
            return _parse(self._path(disk).read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None

    def forget(self, disk: Disk) -> None:
        """Remove the note of a disk."""
        if self._folder.is_dir():
            durable.remove(self._path(disk))

    def __iter__(self) -> Iterator[Note]:
        for path in sorted(self._folder.glob("[!.]*.json")):
            yield _parse(path.read_text(encoding="utf-8"))

    def _path(self, disk: Disk) -> Path:
        return self._folder / f"{disk.vdi}.json"


def _parse(text: str) -> Note:
    content = json.loads(text)
    content["disk"] = Disk(**content["disk"])
    content["chain"] = tuple(ImageRef(Path(path), name) for path, name in content["chain"])
    return Note(**content)
