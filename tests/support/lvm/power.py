"""What losses of power leave of a volume group: its writes are recorded, and done again up to some.

The group lies on a recorded disk while the work is done. Then, one moment after the other, a new
disk gets what was durable at that moment, and the group is there again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.lvm import write_log
from tests.support.lvm.loop import attached
from tests.support.lvm.mapping import LABEL_SECTORS, Recorded
from tests.support.lvm.tools import SECTOR
from tests.support.lvm.write_log import Entry, Flag

DISK_SIZE = 256 << 20
LOG_SIZE = 1 << 30
"""Bytes; both are sparse."""

BEGIN = "begin"
END = "end"


@dataclass(frozen=True)
class Moment:
    """One loss of power: the disk as it is then, and the marks that were put before it."""

    device: Path
    marks: tuple[str, ...]

    @property
    def at_the_end(self) -> bool:
        """Whether all the work had been done, and confirmed."""
        return END in self.marks


@dataclass(frozen=True)
class Recording:
    """What was written to a disk, from its first byte on."""

    log: Path
    entries: Sequence[Entry]

    def moments(self, folder: Path, most: int) -> Iterator[Moment]:
        """Losses of power after the mark `BEGIN`: at flushes, evenly, `most` at most; and the end.

        The disk of each is gone when the next one is asked for; nothing may be mapped onto it then.
        """
        size = DISK_SIZE - LABEL_SECTORS * SECTOR
        for number, end in enumerate(_cuts(self.entries, most)):
            entries = self.entries[:end]
            file = folder / f"moment{number}"
            with attached(file, size) as disk:
                write_log.replay(self.log, entries, disk.device)
                marks = tuple(entry.mark for entry in entries if entry.mark)
                yield Moment(disk.device, marks)
            file.unlink()


@contextmanager
def recorded(folder: Path) -> Iterator[tuple[Recorded, Callable[[], Recording]]]:
    """A disk whose writes are recorded, and what ends that.

    Put the marks `BEGIN` and `END`; nothing may be mapped onto it at the end.
    """
    with attached(folder / "disk", DISK_SIZE) as disk, attached(folder / "log", LOG_SIZE) as log:
        made = Recorded(disk.device, log.device)

        def end() -> Recording:
            made.remove()
            return Recording(log.file, write_log.read(log.file))

        yield made, end


def _cuts(entries: Sequence[Entry], most: int) -> list[int]:
    """How many entries are durable at each loss of power."""
    begin = next(at for at, entry in enumerate(entries) if entry.mark == BEGIN)
    flushed = Flag.FLUSH | Flag.FUA | Flag.MARK
    found = [at + 1 for at in range(begin, len(entries)) if entries[at].flags & flushed]
    if len(found) <= most:
        return found
    return sorted({found[round(at * (len(found) - 1) / (most - 1))] for at in range(most)})
