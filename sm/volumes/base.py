"""What every place that keeps images can do. Drivers and the collector work on this alone.

All changes are made by the SR master with the SR lock held, and last once the call returns.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, TypeVar

from sm.errors import Unimplemented
from sm.volumes.described import Catalogue, Keep

Make = Callable[[Path], None]
"""Writes an image at a path that is not yet visible to anybody else."""


@dataclass(frozen=True, slots=True)
class Room:
    """What an image needs of a storage where volumes have a size, in bytes.

    `now`: what it takes at present, with what it may be given to grow before it asks for more;
    `full`: what it takes when every byte of its disk is written. Equal for one that is only read.
    """

    now: int
    full: int


@dataclass(frozen=True, slots=True)
class Volume:
    """One image as the storage sees it. Sizes in bytes: `size` its length, `used` what it costs.

    `hidden`: the storage has it marked so, for a format that has no place for the mark. `inode`:
    what it has in common with other names of the same file; None where it has one name.
    """

    uuid: str
    format: str
    path: Path
    size: int
    used: int
    hidden: bool = False
    inode: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Stranger:
    """Something that looks like an image (`format`) but carries no name of ours; never touched."""

    name: str
    format: str
    path: Path


Image = TypeVar("Image", Volume, Stranger)


@dataclass(frozen=True, slots=True)
class Listing:
    """All that one look at the storage saw."""

    volumes: tuple[Volume, ...]
    strangers: tuple[Stranger, ...]


@dataclass(frozen=True, slots=True)
class Space:
    """Bytes of the whole storage: `total`, in use, and free for us to take."""

    total: int
    used: int
    free: int


class VolumeStore(ABC):
    """The volumes of one attached SR, and a few small records that must survive with them."""

    sized: ClassVar[bool] = False
    """Whether a volume has a size of its own, so that an image must be given room to grow."""

    @property
    def grows(self) -> bool:
        """Whether the volume of a disk in use has less than it may need, and grows meanwhile."""
        return False

    named_by_master: ClassVar[bool] = False
    """Whether only the SR master may rename volumes; else any host with the SR lock of its own."""

    def is_read_only(self) -> bool:
        """Whether nothing can be written where the volumes are; False where that is not known."""
        return False

    @abstractmethod
    def require_present(self) -> None:
        """Raise `SrUnavailable` unless the storage is still the one that was attached."""

    @abstractmethod
    def listing(self) -> Listing:
        """Every volume, in one look."""

    @abstractmethod
    def change_mark(self) -> str:
        """A text that is another one once a volume came, went or was renamed; cheap to ask for."""

    @abstractmethod
    def volume(self, uuid: str, image_format: str) -> Volume:
        """One volume; raises `VdiMissing`."""

    @abstractmethod
    def exists(self, uuid: str, image_format: str) -> bool:
        """Whether there is such a volume."""

    @abstractmethod
    def path(self, uuid: str, image_format: str) -> Path:
        """Where the volume is, or would be; see `prepare`."""

    def prepare(self, images: Collection[tuple[str, str]]) -> None:
        """Make volumes (UUID, format) usable at their paths on this host, as they are now.

        Those that do not exist are passed over. Nothing to do where volumes always are.
        """
        del images

    def headers(self, images: Iterable[Image]) -> Iterator[tuple[Image, Path]]:
        """Each image with a path at which its headers can be read, until the next one is taken.

        They need not be prepared. Guest data may be missing there.
        """
        for image in images:
            yield image, image.path

    @contextmanager
    def writing(self, uuid: str, image_format: str) -> Iterator[None]:
        """Let an image that is only read be changed for the block: its headers, its tables."""
        del uuid, image_format
        yield

    @abstractmethod
    def parent_uuid(self, name: str) -> tuple[str, str] | None:
        """UUID and format of the volume that an image names as its parent; None for a stranger."""

    @abstractmethod
    def create(
        self, uuid: str, image_format: str, make: Make, before: Callable[[int], None], room: Room
    ) -> None:
        """Add a volume whose content `make` writes.

        `before` is called when it only lacks its name, with the bytes that it costs. After a crash
        or an error the volume is there whole or not at all. Raises `VdiExists`, `SrNoSpace`.
        """

    @abstractmethod
    def displace(self, uuid: str, image_format: str, to: str, make: Make, room: Room) -> None:
        """Give the volume the new UUID `to`, and put what `make` writes in its old place.

        The old name is never missing where the storage can give one volume two names. After a
        crash `displaced` tells whether it was done; if not, `undo_displace` goes back.
        """

    @abstractmethod
    def displaced(self, uuid: str, image_format: str, to: str) -> bool:
        """Whether the displacement is complete: two different volumes under the two names."""

    @abstractmethod
    def undo_displace(self, uuid: str, image_format: str, to: str) -> None:
        """Go back to one volume called `uuid`, if the displacement is not complete."""

    @abstractmethod
    def supersede(self, uuid: str, image_format: str, by: str) -> None:
        """Let the volume `by` take the place and name of `uuid`, in one atomic step."""

    @abstractmethod
    def reserve(self, uuid: str, image_format: str, growth: int) -> None:
        """Let the volume be written to and grow by so many bytes without fail, if that can be.

        Its content stays as it is. Raises `SrNoSpace`. What is not used comes back by `trim`.
        """

    @abstractmethod
    def trim(self, uuid: str, image_format: str) -> None:
        """Give back what was reserved for the volume and not used; nobody writes to it now.

        The volume of a hidden image may be only read from here on, but for `writing`.
        """

    def make_room(self, uuid: str, image_format: str, room: Room, *, in_use: bool) -> None:
        """Let a volume be written to, and have the size that such a one needs at least.

        `in_use`: some host has it open for writing, and sees to the end of the image by itself.
        Raises `SrNoSpace`. Nothing to do where volumes have no size of their own.
        """
        del uuid, image_format, room, in_use

    def give_back_room(self, uuid: str, image_format: str, room: Room) -> None:
        """Take from a volume, which nobody has open, what is more than `room`."""
        del uuid, image_format, room

    @abstractmethod
    def superseded(self, uuid: str, image_format: str, by: str) -> bool:
        """Whether a `supersede` that was begun took place; if so, it lasts from now on.

        Nobody may have removed or renamed either volume by other means since.
        """

    @abstractmethod
    def fingerprint(self, uuid: str, image_format: str) -> str:
        """A text that is another one once the volume is another, or was written to."""

    @abstractmethod
    def remove(self, uuid: str, image_format: str) -> None:
        """Remove a volume for good; it may be gone already."""

    @abstractmethod
    def unfinished(self) -> tuple[str, ...]:
        """The temporary names that there are; left over, if the SR lock is held."""

    @abstractmethod
    def remove_unfinished(self) -> int:
        """Remove what interrupted calls left under temporary names; returns the bytes freed."""

    def discard_free(self) -> int:
        """Tell the devices which of their space is free; returns how many bytes that is.

        Raises `Unimplemented` where that is not ours to tell.
        """
        raise Unimplemented("the file system of this SR tells its device by itself; see fstrim(8)")

    def cost(self, room: Room, data: int) -> int:
        """Bytes of the free space that a new volume takes; `data`: what in it is no hole."""
        del room
        return data

    @abstractmethod
    def space(self) -> Space:
        """Total, used and free bytes."""

    @abstractmethod
    def records(self) -> dict[str, bytes]:
        """The records by name. What has the name of one and cannot be read as one is empty."""

    @abstractmethod
    def write_record(self, name: str, content: bytes) -> None:
        """Add or replace a record, all or nothing."""

    @abstractmethod
    def remove_record(self, name: str) -> None:
        """Remove a record; it may be gone already."""

    def rename_record(self, name: str, new: str) -> None:
        """Give a record a name that none has, with whatever is in it.

        A crash may leave it under both names.
        """
        self.write_record(new, self.records()[name])
        self.remove_record(name)

    @abstractmethod
    def descriptions(self) -> Catalogue:
        """What is remembered of names; nothing where nothing was ever described.

        Names that were too long may be cut. What is damaged is left out; raises `SmError` where
        that is all of it.
        """

    @abstractmethod
    def is_described(self, catalogue: Catalogue, keep: Keep) -> bool:
        """Whether `describe` would find nothing to change. SR lock held; raises as that does."""

    @abstractmethod
    def describe(self, catalogue: Catalogue, keep: Keep) -> None:
        """Remember these names and no others, but for disks that are to be kept.

        Writes what differs, all or nothing as far as the storage can: after a crash each disk may
        be described as before or as now, and `is_described` is false. What is damaged is written
        anew. Raises `SrNoSpace`, or `MetadataError` for what a later version has written.
        """

    @abstractmethod
    def forget_descriptions(self) -> None:
        """Remember no names any more: the SR is about to be destroyed."""
