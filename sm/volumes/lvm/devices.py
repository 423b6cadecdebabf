"""The devices of a volume group, read past every cache: another host may have written to them."""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from sm.errors import SrUnavailable
from sm.volumes.lvm import metadata
from sm.volumes.lvm.metadata import LogicalVolume, NotLvm, Text, VolumeGroup

ALIGNMENT = 4096
"""Bytes; offsets and lengths of reads that go past the cache are multiples of it."""

ATTEMPTS = 5
"""A text may be replaced while it is read; each replacement leaves the one before it whole."""


class Device:
    """One block device, opened to be read."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC)
        except OSError as error:
            raise SrUnavailable(f"{path}: {error.strerror}") from error

    def read(self, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`; `SrUnavailable` where there are none."""
        first = offset // ALIGNMENT * ALIGNMENT
        size = -(-(offset + length - first) // ALIGNMENT) * ALIGNMENT
        with mmap.mmap(-1, size) as buffer, memoryview(buffer) as view:
            try:
                count = os.preadv(self._descriptor, [view], first)
            except OSError as error:
                raise SrUnavailable(f"{self.path}: {error.strerror}") from error
            if count < offset + length - first:
                raise SrUnavailable(f"{self.path} ends at {first + count}")
            return bytes(view[offset - first : offset - first + length])

    def close(self) -> None:
        """Release the device."""
        os.close(self._descriptor)


class Devices:
    """The devices of one volume group. Open them with `opened` to read volumes."""

    def __init__(self, paths: Sequence[Path], group: str) -> None:
        self.paths = tuple(paths)
        self._name = group
        self._known: tuple[tuple[Text | None, ...], VolumeGroup] | None = None

    def group(self) -> VolumeGroup:
        """The volume group as it is now; read anew only if it changed.

        Raises `SrUnavailable` when a device is gone, or they do not hold this volume group.
        """
        with self.opened() as view:
            return view.group

    @contextmanager
    def opened(self) -> Iterator[View]:
        """The group as it is now, and its volumes to be read."""
        with ExitStack() as stack:
            found: dict[str, Device] = {}
            for path in self.paths:
                device = Device(path)
                stack.callback(device.close)
                try:
                    found[metadata.read_label(device.read).device_id] = device
                except NotLvm as error:
                    raise SrUnavailable(f"{path}: {error}") from error
            yield View(self._read(list(found.values())), found)

    def _read(self, devices: Sequence[Device]) -> VolumeGroup:
        problem = NotLvm(f"no device holds the metadata of {self._name}")
        for _ in range(ATTEMPTS):
            try:
                group = self._read_once(devices)
            except NotLvm as error:
                problem = error
                continue
            if group.name != self._name:
                raise SrUnavailable(f"the devices hold the volume group {group.name}")
            return group
        raise SrUnavailable(str(problem)) from problem

    def _read_once(self, devices: Sequence[Device]) -> VolumeGroup:
        places = [
            metadata.read_place(device.read, metadata.read_label(device.read)) for device in devices
        ]
        if self._known is not None and self._known[0] == tuple(places):
            return self._known[1]
        groups = [
            metadata.read_group(device.read, place)
            for device, place in zip(devices, places, strict=True)
            if place is not None
        ]
        if not groups:
            raise NotLvm(f"no device holds the metadata of {self._name}")
        # After a crash of LVM some devices may hold the text before; it takes the newest, too.
        newest = max(groups, key=lambda group: group.seqno)
        self._known = tuple(places), newest
        return newest


class View:
    """One look at a volume group whose devices are open."""

    def __init__(self, group: VolumeGroup, devices: dict[str, Device]) -> None:
        self.group = group
        self._devices = devices

    def read(self, volume: LogicalVolume, offset: int, length: int) -> bytes:
        """Bytes of a volume, whether it is active or not; what lies behind its end is missing.

        Raises `SrUnavailable` when its device is not there.
        """
        if volume.segments is None:
            raise SrUnavailable(f"{volume.name} is more than pieces of devices in a row")
        pieces: list[bytes] = []
        end = min(offset + length, volume.size)
        for segment in volume.segments:
            start = max(offset, segment.start)
            stop = min(end, segment.start + segment.length)
            if start >= stop:
                continue
            if segment.device not in self._devices:
                raise SrUnavailable(f"a device of {volume.name} is not there: {segment.device}")
            device = self._devices[segment.device]
            pieces.append(device.read(segment.offset + start - segment.start, stop - start))
        return b"".join(pieces)
