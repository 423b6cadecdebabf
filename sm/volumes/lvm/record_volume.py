"""The volume with our records: read from the devices, written by one process at a time."""

from __future__ import annotations

from collections.abc import Mapping

from sm.errors import SmError, SrNoSpace
from sm.volumes.lvm import records
from sm.volumes.lvm.blocks import write_blocks
from sm.volumes.lvm.devices import ATTEMPTS, View
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.metadata import LogicalVolume
from sm.volumes.lvm.names import RECORDS
from sm.volumes.lvm.records import BLOCK, HALF, VOLUME_SIZE, Copy


class RecordVolume:
    """The records of one volume group."""

    def __init__(self, group: Group) -> None:
        self._group = group

    def make(self) -> None:
        """Add the volume where there is none, as in a group of another manager."""
        if RECORDS not in self._group.now().volumes:
            # Under another name until it is blank: the former content of a device may be anything.
            unfinished = f"new-{RECORDS}"
            self._group.remove(unfinished)
            self._group.create(unfinished, VOLUME_SIZE)
            self._group.prepare([unfinished])
            for half in (0, HALF):
                write_blocks(self._group.path(unfinished), half, bytes(BLOCK))
            self._group.rename(unfinished, RECORDS)

    def read(self) -> Mapping[str, bytes]:
        """All records; none where there is no volume for them."""
        return self._newest().records

    def replace(self, name: str, content: bytes | None) -> None:
        """Add, replace or, with None, remove one record; it lasts on return."""
        with self._group.locked("record"):
            copy = self._newest()
            kept = {other: value for other, value in copy.records.items() if other != name}
            if content is not None:
                kept[name] = content
            elif name not in copy.records:
                return
            try:
                offset, raw = records.following(copy, kept)
            except ValueError as error:
                raise SrNoSpace(str(error)) from error
            self.make()
            self._group.prepare([RECORDS])
            write_blocks(self._group.path(RECORDS), offset, raw)

    def _newest(self) -> Copy:
        with self._group.opened() as view:
            volume = view.group.volumes.get(RECORDS)
            if volume is None:
                return Copy()
            for _ in range(ATTEMPTS):
                first, second = (_read_copy(view, volume, half) for half in (0, HALF))
                try:
                    return records.newest((first, second))
                except ValueError as error:
                    problem = error
        raise SmError(f"{RECORDS}: {problem}", name="LVMRead")


def _read_copy(view: View, volume: LogicalVolume, offset: int) -> bytes:
    front = view.read(volume, offset, BLOCK)
    length = records.length(front)
    if length <= BLOCK:
        return front
    return front + view.read(volume, offset + BLOCK, length - BLOCK)
