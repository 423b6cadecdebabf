"""Power cuts: record what is written to images, then replay every state that a cut may leave.

Between two flushes the disk may have kept any of the writes, each in any of its sectors. All
prefixes are tried, each with nothing lost and with random losses, and with torn last writes.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sm.cowutil.vhd.block_file import Access, BlockFile
from tests.cowutil.vhd.vhd_support import MemoryFile

SECTOR = 512


@dataclass
class Flush:
    """Everything before this is durable. `version`: which state of the disk was promised."""


@dataclass
class Write:
    offset: int
    data: bytes


@dataclass
class Truncate:
    size: int


@dataclass
class Mark:
    """The test's own note: `started` or `durable` version of the guest's disk."""

    what: str
    version: int


Event = Flush | Write | Truncate | Mark


@dataclass
class Cut:
    """One state after a cut: the bytes, and which versions of the guest's disk are allowed."""

    content: bytearray
    durable: int
    started: int


@dataclass
class Recorder:
    """An opener whose files live in memory; those named in `watched` are recorded."""

    files: dict[Path, bytearray] = field(default_factory=dict)
    watched: Path | None = None
    events: list[Event] = field(default_factory=list)
    resizable: bool = True

    def load(self, *paths: Path) -> None:
        """Take the present contents of real files."""
        for path in paths:
            self.files[path] = bytearray(path.read_bytes())

    def watch(self, path: Path) -> bytes:
        """Record from now on; gives the contents before."""
        self.watched = path
        self.events.clear()
        return bytes(self.files.get(path, b""))

    def mark(self, what: str, version: int) -> None:
        self.events.append(Mark(what, version))

    def writes_between_flushes(self) -> Iterator[set[int]]:
        """The offsets written between each two flushes of the recording."""
        offsets: set[int] = set()
        for event in self.events:
            if isinstance(event, Flush):
                yield offsets
                offsets = set()
            elif isinstance(event, Write):
                offsets.add(event.offset)
        yield offsets

    def open(self, path: Path, access: Access) -> BlockFile:
        content = self.files.setdefault(path, bytearray())
        if path == self.watched and access is not Access.READ:
            return _Recorded(content, path, self.events, self.resizable)
        return MemoryFile(content, path, self.resizable)

    def cuts(self, before: bytes, seed: int, losses: int = 2) -> Iterator[Cut]:
        """Every prefix of the recording, whole and with `losses` random sets of lost sectors."""
        dice = random.Random(seed)
        stable = MemoryFile(bytearray(before))
        unsafe: list[Write | Truncate] = []
        durable = started = 0
        yield Cut(bytearray(before), durable, started)
        for event in self.events:
            if isinstance(event, Mark):
                durable = event.version if event.what == "durable" else durable
                started = event.version if event.what == "started" else started
                continue
            if isinstance(event, Flush):
                for done in unsafe:
                    _apply(stable, done)
                unsafe.clear()
                yield Cut(bytearray(stable.content), durable, started)
                continue
            unsafe.append(event)
            for loss in range(losses + 1):
                state = MemoryFile(bytearray(stable.content))
                for done in unsafe:
                    if loss == 0:
                        _apply(state, done)
                    elif dice.random() < 0.6:
                        _apply_torn(state, done, dice)
                yield Cut(state.content, durable, started)
        yield Cut(bytearray(stable.content), durable, started)


class _Recorded(MemoryFile):
    def __init__(
        self, content: bytearray, path: Path, events: list[Event], resizable: bool
    ) -> None:
        super().__init__(content, path, resizable)
        self._events = events

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        self._events.append(Write(offset, bytes(data)))
        super().write(offset, data)

    def flush(self) -> None:
        self._events.append(Flush())

    def truncate(self, size: int) -> None:
        self._events.append(Truncate(size))
        super().truncate(size)

    def discard(self, offset: int, length: int) -> None:
        end = min(offset + length, len(self.content))
        self.write(offset, bytes(end - offset))


def _apply(state: MemoryFile, event: Write | Truncate) -> None:
    if isinstance(event, Truncate):
        state.truncate(event.size)
    else:
        state.write(event.offset, event.data)


def _apply_torn(state: MemoryFile, event: Write | Truncate, dice: random.Random) -> None:
    """Apply a write, in half of the cases without some of its sectors."""
    if isinstance(event, Truncate) or dice.random() < 0.5:
        _apply(state, event)
        return
    position = 0
    while position < len(event.data):
        at = event.offset + position
        # Whole runs of sectors, so that large writes stay cheap to replay.
        length = min(SECTOR * dice.choice((1, 1, 8, 512)) - at % SECTOR, len(event.data) - position)
        if dice.random() < 0.5:
            state.write(at, event.data[position : position + length])
        position += length
