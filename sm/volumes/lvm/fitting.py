"""Extending a volume so that its image is whole at every moment.

What is added to a volume is the former data of others, and at its new end the image may need
something of its own. A record says so before the volume is extended, until that is done; in the
meantime the headers of the image are shown without that end.
"""

from __future__ import annotations

from collections.abc import Collection

from sm.cowutil.registry import Formats
from sm.volumes.lvm import names
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.record_volume import RecordVolume

PREFIX = "fit-"


class Fitting:
    """Extends the volumes of one group; the SR lock is held."""

    def __init__(self, group: Group, records: RecordVolume, formats: Formats) -> None:
        self._group = group
        self._records = records
        self._formats = formats

    def is_own(self, record: str) -> bool:
        """Whether a record is one of ours."""
        return record.startswith(PREFIX)

    def unfinished(self) -> frozenset[str]:
        """The names of the volumes that were extended, or were about to be."""
        return frozenset(
            name.removeprefix(PREFIX) for name in self._records.read() if self.is_own(name)
        )

    def extend(self, name: str, image_format: str, size: int, *, in_use: bool = False) -> None:
        """Extend a volume to `size` bytes; raises `SrNoSpace` with nothing changed.

        Of one `in_use` the end is left to whoever writes to it; the record stays until it is not.
        """
        self._records.replace(f"{PREFIX}{name}", image_format.encode("ascii"))
        try:
            self._group.extend(name, size)
        finally:
            if not in_use:
                self._fit(name, image_format)

    def finish(self, wanted: Collection[str] | None = None) -> None:
        """Finish what an interrupted call left, of the volumes `wanted` or of all."""
        left = self._records.read()
        for record in filter(self.is_own, left):
            name = record.removeprefix(PREFIX)
            if wanted is None or name in wanted:
                self._fit(name, left[record].decode("ascii"))

    def _fit(self, name: str, image_format: str) -> None:
        volume = self._group.now().volumes.get(name)
        image = names.parse(name, self._formats.names)
        if volume is not None and image is not None:
            self._group.prepare([name])
            if volume.writable:
                self._formats.get(image_format).fit(self._group.path(name), volume.size)
        self._records.replace(f"{PREFIX}{name}", None)
