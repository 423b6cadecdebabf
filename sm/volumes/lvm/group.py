"""One volume group on this host: read from its devices, changed by LVM, mapped as it is now."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

from sm import process
from sm.errors import ToolFailed, Unimplemented, VdiMissing
from sm.volumes.lvm.commands import Lvm
from sm.volumes.lvm.devices import Devices, View
from sm.volumes.lvm.mappings import Mappings
from sm.volumes.lvm.metadata import LogicalVolume, VolumeGroup
from sm.volumes.lvm.names import GROUP_PREFIX, folder

DISCARD_TIMEOUT = 6 * 3600.0
"""Seconds; terabytes are discarded in seconds by one device and in hours by another."""

Lock = Callable[[str], AbstractContextManager[None]]
"""Holds the lock of the group for a block; told what for."""


class Group:
    """A volume group. Every change goes through `change`, so that mappings stay known."""

    def __init__(
        self, name: str, devices: Devices, lvm: Lvm, mappings: Mappings, lock: Lock
    ) -> None:
        self.name = name
        self.devices = devices
        self.lvm = lvm
        self._mappings = mappings
        self._lock = lock

    def now(self) -> VolumeGroup:
        """What the devices say."""
        return self.devices.group()

    @contextmanager
    def opened(self) -> Iterator[View]:
        """What the devices say, and the content of volumes, active or not."""
        with self.devices.opened() as view:
            yield view

    @contextmanager
    def locked(self, operation: str) -> Iterator[None]:
        """Hold the lock of the group on this host."""
        with self._lock(operation):
            yield

    def volume(self, name: str) -> LogicalVolume:
        """One volume; raises `VdiMissing`."""
        found = self.now().volumes.get(name)
        if found is None:
            raise VdiMissing(f"{self.name} has no volume {name}")
        return found

    def path(self, name: str) -> Path:
        """Where a volume is when it is active."""
        return folder(self.name) / name

    def prepare(self, names: Collection[str]) -> None:
        """Make the paths of volumes appear and mean what the group has now."""
        with self.locked("prepare"):
            group = self.now()
            self._mappings.follow(group)
            self._mappings.activate(group, names)

    def change(self, command: str, *arguments: str) -> None:
        """Run a command that changes the group; mappings of this host follow."""
        with self.locked(command):
            self._mappings.follow(self.now())
            self.lvm.change(command, *arguments)
            self._mappings.note(self.now())

    def create(self, name: str, size: int, *tags: str) -> None:
        """Add a volume of `size` bytes, active, with its first 4 KiB blank."""
        marks = [each for tag in tags for each in ("--addtag", tag)]
        self.change("lvcreate", "-n", name, "-L", f"{size}b", "-Wy", "-Zy", *marks, self.name)

    def rename(self, name: str, to: str) -> None:
        """Give a volume another name, in one step."""
        self.change("lvrename", self.name, name, to)

    def remove(self, *names: str) -> None:
        """Remove volumes; those that are not there are passed over. Raises `Busy`."""
        present = self.now().volumes
        found = [f"{self.name}/{name}" for name in names if name in present]
        if found:
            self.change("lvremove", "-f", *found)

    def extend(self, name: str, size: int) -> None:
        """Make a volume longer; what is added may hold anything."""
        self.change("lvextend", "-L", f"{size}b", f"{self.name}/{name}")

    def reduce(self, name: str, size: int) -> None:
        """Cut a volume."""
        self.change("lvreduce", "-f", "-L", f"{size}b", f"{self.name}/{name}")

    @property
    def trim_name(self) -> str:
        """The volume that takes all free space while that is discarded."""
        return f"{self.name.removeprefix(GROUP_PREFIX)}_trim_lv"

    def discard(self, name: str) -> None:
        """Tell the devices that the content of a volume is of no use; raises `Unimplemented`."""
        self.prepare([name])
        try:
            process.run(("blkdiscard", "-f", str(self.path(name))), timeout=DISCARD_TIMEOUT)
        except ToolFailed as error:
            if "not supported" in error.stderr:
                raise Unimplemented(f"a device of {self.name} cannot discard") from error
            raise

    def set_writable(self, name: str, writable: bool) -> None:
        """Let a volume be written to, or only be read; here at once, elsewhere when followed."""
        self.change("lvchange", "-p", "rw" if writable else "r", f"{self.name}/{name}")
