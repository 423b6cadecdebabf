"""Devices of device-mapper that tests put over a disk: to break it, or to record it."""

from __future__ import annotations

import uuid
from pathlib import Path

from tests.support.lvm.tools import SECTOR, call, size_of

PREFIX = "sm-test-"
"""LVM as the tests set it up looks for volume groups on devices of this name."""

HIDDEN = "sm-hidden-"
"""And it does not look at those of this name."""

LABEL_SECTORS = 2048
"""What is left out at the start of a disk. LVM looks at the disk as well, and must not see the same
physical volume there again."""

ALWAYS = 3600
"""Seconds: an interval of dm-flakey that no test outlasts, after one of no seconds."""


class Mapping:
    """One device with one target over all of it; `table` has what follows start and length."""

    def __init__(self, sectors: int, table: str, prefix: str = PREFIX) -> None:
        self.name = f"{prefix}{uuid.uuid4().hex[:8]}"
        self.path = Path("/dev/mapper", self.name)
        self._sectors = sectors
        call("dmsetup", "create", self.name, "--table", f"0 {sectors} {table}")

    def load(self, table: str) -> None:
        """Give it another table while it is in use; what is under way ends with the old one."""
        load(self.name, f"0 {self._sectors} {table}")

    def suspend(self) -> None:
        """Hold whatever reads or writes from now on. It cannot be killed until `resume`."""
        call("dmsetup", "suspend", "--nolockfs", self.name)

    def resume(self) -> None:
        """Let it go on."""
        call("dmsetup", "resume", self.name)

    def remove(self) -> None:
        """Remove it; raises AssertionError while it is open."""
        call("dmsetup", "remove", self.name)


def load(name: str, table: str) -> None:
    """Give any device another whole table.

    No file system is frozen: that would write back what a test wants to see lost.
    """
    call("dmsetup", "suspend", "--nolockfs", name)
    call("dmsetup", "load", name, "--table", table)
    call("dmsetup", "resume", name)


class Flakey(Mapping):
    """A disk that can be told to lose or to refuse what is written; reading works always.

    It has the underlying disk's content from its second MiB on.
    """

    def __init__(self, disk: Path) -> None:
        self._disk = disk
        super().__init__(_sectors_behind_label(disk), f"linear {disk} {LABEL_SECTORS}")

    def drop_writes(self) -> None:
        """From now on whatever is written is confirmed, and lost."""
        self.load(f"flakey {self._disk} {LABEL_SECTORS} 0 {ALWAYS} 1 drop_writes")

    def fail_writes(self) -> None:
        """From now on whatever is written fails, with EIO."""
        self.load(f"flakey {self._disk} {LABEL_SECTORS} 0 {ALWAYS} 1 error_writes")

    def heal(self) -> None:
        """A good disk again."""
        self.load(f"linear {self._disk} {LABEL_SECTORS}")


class Recorded(Mapping):
    """A disk whose writes are all recorded on another; see `write_log`.

    It has the underlying disk's content from its second MiB on, and the log begins there, too.
    """

    def __init__(self, disk: Path, log: Path) -> None:
        sectors = _sectors_behind_label(disk)
        self._below = Mapping(sectors, f"linear {disk} {LABEL_SECTORS}", HIDDEN)
        super().__init__(sectors, f"log-writes {self._below.path} {log}")

    def mark(self, name: str) -> None:
        """Put one word into the log, behind all that a flush has made durable."""
        call("dmsetup", "message", self.name, "0", "mark", name)

    def remove(self) -> None:
        """Remove it; raises AssertionError while it is open. The log is complete then."""
        super().remove()
        self._below.remove()


def _sectors_behind_label(disk: Path) -> int:
    return size_of(disk) // SECTOR - LABEL_SECTORS
