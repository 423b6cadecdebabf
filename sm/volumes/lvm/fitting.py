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
IN_USE = " in use"
"""At the end of the record of a volume that somebody writes to: nobody else touches its end."""


class Fitting:
    """Extends the volumes of one group; the SR lock is held."""

    def __init__(self, group: Group, records: RecordVolume, formats: Formats) -> None:
        self._group = group
        self._records = records
        self._formats = formats

    def is_own(self, record: str) -> bool:
        """Whether a record is one of ours."""
        return record.startswith(PREFIX)

    def unfinished(self, *, in_use: bool = True) -> frozenset[str]:
        """The names of the volumes that were extended, or were about to be.

        Without `in_use`, of those that nobody writes to, as far as is known.
        """
        return frozenset(
            name.removeprefix(PREFIX)
            for name, content in self._records.read().items()
            if self.is_own(name) and (in_use or not _is_in_use(content))
        )

    def hand_over(self, name: str, to: str) -> None:
        """Before a volume gets the name `to`: let its end, if it is unfinished, be known by that.

        Then another volume may take its name; `forget` what was known by that.
        """
        content = self._records.read().get(f"{PREFIX}{name}")
        if content is not None:
            self._records.replace(f"{PREFIX}{to}", content)

    def extend(self, name: str, image_format: str, size: int, *, in_use: bool = False) -> None:
        """Extend a volume to `size` bytes; raises `SrNoSpace` with nothing changed.

        Of one `in_use` the end is left to whoever writes to it; the record stays until it is not.
        """
        content = f"{image_format}{IN_USE if in_use else ''}"
        self._records.replace(f"{PREFIX}{name}", content.encode("ascii"))
        try:
            self._group.extend(name, size)
        finally:
            if not in_use:
                self._fit(name, image_format)

    def finish(self, wanted: Collection[str] | None = None) -> None:
        """Finish what was left, of the volumes `wanted`, which nobody writes to any more.

        Without these, of all that are not known to be written to.
        """
        left = self._records.read()
        for record in filter(self.is_own, left):
            name, content = record.removeprefix(PREFIX), left[record]
            if (not _is_in_use(content)) if wanted is None else name in wanted:
                self._fit(name, content.decode("ascii").removesuffix(IN_USE))

    def forget(self, name: str) -> None:
        """Say that the end of a volume is as it should be."""
        if f"{PREFIX}{name}" in self._records.read():
            self._records.replace(f"{PREFIX}{name}", None)

    def _fit(self, name: str, image_format: str) -> None:
        volume = self._group.now().volumes.get(name)
        image = names.parse(name, self._formats.names)
        if volume is not None and image is not None:
            self._group.prepare([name])
            if volume.writable:
                self._formats.get(image_format).fit(self._group.path(name), volume.size)
        self._records.replace(f"{PREFIX}{name}", None)


def _is_in_use(content: bytes) -> bool:
    return content.endswith(IN_USE.encode("ascii"))
