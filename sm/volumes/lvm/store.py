"""A volume group as the place of an SR's images.

A volume has a size, so images are given room before they are written and give it back afterwards;
the volume of a hidden image may only be read, but while it is merged into or its header changed.
Nothing of that is a change of an image: what a crash leaves is a volume that is larger, or may be
written to for longer, than it need be, and a later call takes that up.

Names are not changed two at a time by LVM. `displace` and `supersede` are two renames each; what
lies between them is told from the names, and gone back from.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from sm.cowutil.registry import Formats
from sm.errors import Busy, VdiExists, VdiMissing
from sm.volumes.base import Image, Listing, Make, Room, Space, Stranger, Volume, VolumeStore
from sm.volumes.described import Catalogue, Keep
from sm.volumes.lvm import names, sizes
from sm.volumes.lvm.fitting import Fitting
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.header_view import header_view
from sm.volumes.lvm.metadata import LogicalVolume
from sm.volumes.lvm.name_volume import NameVolume
from sm.volumes.lvm.names import ImageName, Stage
from sm.volumes.lvm.record_volume import RecordVolume
from sm.volumes.lvm.sizes import Allocation


class LvmStore(VolumeStore):
    """The images of the given formats in one volume group."""

    sized = True
    named_by_master = True

    def __init__(self, group: Group, formats: Formats, allocation: Allocation) -> None:
        self._group = group
        self._formats = formats
        self._allocation = allocation
        self._records = RecordVolume(group)
        self._names = NameVolume(group)
        self._fitting = Fitting(group, self._records, formats)

    @property
    def grows(self) -> bool:
        """Where space is given as disks are written."""
        return self._allocation is Allocation.THIN

    # What there is

    def require_present(self) -> None:
        """Read the devices."""
        self._group.now()

    def listing(self) -> Listing:
        """Every volume whose name is that of an image."""
        volumes: list[Volume] = []
        strangers: list[Stranger] = []
        found = self._group.now().volumes
        for name, volume in sorted(found.items()):
            image = names.parse(name, self._formats.names)
            if image is None:
                image_format = names.looks_like(name, self._formats.names)
                if image_format is not None:
                    strangers.append(Stranger(name, image_format, self._group.path(name)))
            elif image.stage is None:
                volumes.append(self._described(image, volume))
            elif image.stage is Stage.OLD and ImageName(image.uuid, image.format).text not in found:
                strangers.append(Stranger(name, image.format, self._group.path(name)))
        return Listing(tuple(volumes), tuple(strangers))

    def change_mark(self) -> str:
        """LVM counts the changes of a group."""
        return str(self._group.now().seqno)

    def volume(self, uuid: str, image_format: str) -> Volume:
        """The volume of one image."""
        image = ImageName(uuid, image_format)
        return self._described(image, self._group.volume(image.text))

    def exists(self, uuid: str, image_format: str) -> bool:
        """Look for its name."""
        return ImageName(uuid, image_format).text in self._group.now().volumes

    def path(self, uuid: str, image_format: str) -> Path:
        """`/dev/<group>/<name>`."""
        return self._group.path(ImageName(uuid, image_format).text)

    def parent_uuid(self, name: str) -> tuple[str, str] | None:
        """Take the name of the volume apart; other managers put the folder of the group before."""
        plain = name.removeprefix(f"{self._group.path('')}/")
        image = names.parse(plain, self._formats.names)
        return None if image is None or image.stage else (image.uuid, image.format)

    def prepare(self, images: Collection[tuple[str, str]]) -> None:
        """Activate the volumes, and follow what other hosts have changed."""
        wanted = [ImageName(uuid, image_format) for uuid, image_format in images]
        self._group.prepare([image.text for image in wanted])

    def headers(self, images: Iterable[Image]) -> Iterator[tuple[Image, Path]]:
        """Both ends of each volume, read from the devices: nothing is activated for a scan."""
        unfitted = self._fitting.unfinished()
        with self._group.opened() as view:
            for image in images:
                name = image.path.name
                volume = view.group.volumes.get(name)
                if volume is None or volume.segments is None:
                    self._group.prepare([name])
                    yield image, image.path
                    continue
                with header_view(view, volume, end=name not in unfitted) as path:
                    yield image, path

    def fingerprint(self, uuid: str, image_format: str) -> str:
        """Identity and size of the volume, and what this kernel has written to it."""
        name = ImageName(uuid, image_format).text
        self._group.prepare([name])
        volume = self._group.volume(name)
        device = self._group.path(name).stat().st_rdev
        place = Path("/sys/dev/block") / f"{os.major(device)}:{os.minor(device)}" / "stat"
        counts = place.read_text(encoding="ascii").split()
        written = counts[4], counts[6]  # requests and sectors; see Documentation/block/stat.rst
        return "-".join((volume.id, str(volume.size), *written))

    def cost(self, room: Room, data: int) -> int:
        """All of the volume: it has no holes."""
        del data
        return self._size(room)

    def space(self) -> Space:
        """Whole extents of the devices."""
        group = self._group.now()
        return Space(total=group.total, used=group.used, free=group.total - group.used)

    def _described(self, image: ImageName, volume: LogicalVolume) -> Volume:
        hidden = names.HIDDEN_TAG in volume.tags
        path = self._group.path(volume.name)
        return Volume(image.uuid, image.format, path, volume.size, volume.size, hidden)

    # Names

    def create(
        self, uuid: str, image_format: str, make: Make, before: Callable[[int], None], room: Room
    ) -> None:
        """Make the volume under another name, then rename it."""
        name = ImageName(uuid, image_format).text
        if name in self._group.now().volumes:
            raise VdiExists(f"{self._group.name} has a volume {name}")
        with self._made(ImageName(uuid, image_format, Stage.NEW), make, room) as made:
            before(made.size)
            self._group.rename(made.name, name)

    def displace(self, uuid: str, image_format: str, to: str, make: Make, room: Room) -> None:
        """Rename the volume, then make another one with its name."""
        old, new = ImageName(uuid, image_format).text, ImageName(to, image_format).text
        if new in self._group.now().volumes:
            raise VdiExists(f"{self._group.name} has a volume {new}")
        self._fitting.hand_over(old, new)
        self._group.rename(old, new)
        self._group.prepare([new])
        with self._made(ImageName(uuid, image_format, Stage.NEW), make, room) as made:
            self._fitting.forget(old)
            self._group.rename(made.name, old)

    def displaced(self, uuid: str, image_format: str, to: str) -> bool:
        """Whether both names are there."""
        present = self._group.now().volumes
        return all(ImageName(each, image_format).text in present for each in (uuid, to))

    def undo_displace(self, uuid: str, image_format: str, to: str) -> None:
        """Give the volume its name back, if no other has that by now."""
        present = self._group.now().volumes
        old, new = ImageName(uuid, image_format).text, ImageName(to, image_format).text
        if new in present and old not in present:
            self._group.rename(new, old)
            self._group.remove(ImageName(uuid, image_format, Stage.NEW).text)

    def supersede(self, uuid: str, image_format: str, by: str) -> None:
        """Put the old volume aside, give its name to the other, and remove it."""
        name, other = ImageName(uuid, image_format).text, ImageName(by, image_format).text
        old = ImageName(uuid, image_format, Stage.OLD).text
        self._allow_writing(other)
        if name in self._group.now().volumes:
            self._group.remove(old)
            self._group.rename(name, old)
        self._group.rename(other, name)
        with suppress(Busy):  # somebody still reads it; what is left over goes later
            self._group.remove(old)

    def superseded(self, uuid: str, image_format: str, by: str) -> bool:
        """The name `by` is gone; while it is there, the old volume gets its name back."""
        present = self._group.now().volumes
        name, old = (
            ImageName(uuid, image_format).text,
            ImageName(uuid, image_format, Stage.OLD).text,
        )
        if ImageName(by, image_format).text in present:
            if name not in present and old in present:
                self._group.rename(old, name)
            return False
        return name in present

    def remove(self, uuid: str, image_format: str) -> None:
        """Remove the volume; `Busy` when something has it open."""
        self._group.remove(ImageName(uuid, image_format).text)

    def unfinished(self) -> tuple[str, ...]:
        """What was being made, or put aside, and whose end is still to be fitted."""
        return (
            *self._left_over(),
            *(f"end of {name}" for name in self._fitting.unfinished(in_use=False)),
        )

    def remove_unfinished(self) -> int:
        """Remove what was being made; give a name back that was taken and not given away."""
        present = self._group.now().volumes
        freed = sum(present[name].size for name in self._left_over())
        self._group.remove(*self._left_over())
        for name in present:
            image = names.parse(name, self._formats.names)
            if image is not None and image.stage is Stage.OLD:
                plain = ImageName(image.uuid, image.format).text
                if plain not in present:
                    self._group.rename(name, plain)
        self._fitting.finish()
        return freed

    def discard_free(self) -> int:
        """Let a volume take all that is free, discard it, and remove it again."""
        free, name = self.space().free, self._group.trim_name
        self._group.remove(name)
        if free:
            self._group.create(name, free)
            try:
                self._group.discard(name)
            finally:
                self._group.remove(name)
        return free

    def _left_over(self) -> list[str]:
        present = self._group.now().volumes
        found = [self._group.trim_name] if self._group.trim_name in present else []
        for name in sorted(present):
            image = names.parse(name, self._formats.names)
            if image is None or image.stage is None:
                continue
            if image.stage is Stage.NEW or ImageName(image.uuid, image.format).text in present:
                found.append(name)
        return found

    @contextmanager
    def _made(self, image: ImageName, make: Make, room: Room) -> Iterator[LogicalVolume]:
        """A new volume with the content that `make` writes; gone unless it has another name."""
        group = self._group
        group.remove(image.text)
        size = self._size(room)
        try:
            group.create(image.text, size)
            make(group.path(image.text))
            yield group.volume(image.text)
        except BaseException:
            group.remove(image.text)
            raise

    # Room

    def _size(self, room: Room) -> int:
        """Of a volume that has this room, by the SR's way of allocation."""
        return sizes.wanted(room, self._allocation, self._group.now().extent_size)

    def reserve(self, uuid: str, image_format: str, growth: int) -> None:
        """Extend the volume beyond what its image uses."""
        name = self._writable(uuid, image_format)
        used = self._formats.get(image_format).used_size(self._group.path(name))
        size = sizes.rounded(used + growth, self._group.now().extent_size)
        if size > self._group.volume(name).size:
            self._fitting.extend(name, image_format, size)

    def trim(self, uuid: str, image_format: str) -> None:
        """Cut the volume behind its image; that of a hidden one is only read from here on."""
        name = self._prepared(uuid, image_format)
        self._fitting.finish([name])
        image, path = self._formats.get(image_format), self._group.path(name)
        volume = self._group.volume(name)
        size = sizes.rounded(image.used_size(path), self._group.now().extent_size)
        if size < volume.size:
            self._allow_writing(name)
            image.fit(path, size)
            self._group.reduce(name, size)
        if image.info(path).hidden and self._group.volume(name).writable:
            self._group.set_writable(name, False)

    def make_room(self, uuid: str, image_format: str, room: Room, *, in_use: bool) -> None:
        """Extend the volume to the size that it needs by the SR's way of allocation."""
        name = self._prepared(uuid, image_format)
        if not in_use:
            self._fitting.finish([name])
        self._allow_writing(name)
        size = self._size(room)
        if size > self._group.volume(name).size:
            self._fitting.extend(name, image_format, size, in_use=in_use)

    def give_back_room(self, uuid: str, image_format: str, room: Room) -> None:
        """Cut the volume to the size that it needs by the SR's way of allocation."""
        name = self._writable(uuid, image_format)
        size = self._size(room)
        if size < self._group.volume(name).size:
            self._formats.get(image_format).fit(self._group.path(name), size)
            self._group.reduce(name, size)

    @contextmanager
    def writing(self, uuid: str, image_format: str) -> Iterator[None]:
        """Let a volume that may only be read be written to for the block."""
        name = self._prepared(uuid, image_format)
        if self._group.volume(name).writable:
            yield
            return
        self._group.set_writable(name, True)
        try:
            yield
        finally:
            if name in self._group.now().volumes:
                self._group.set_writable(name, False)

    def _writable(self, uuid: str, image_format: str) -> str:
        name = self._prepared(uuid, image_format)
        self._fitting.finish([name])
        self._allow_writing(name)
        return name

    def _allow_writing(self, name: str) -> None:
        if not self._group.volume(name).writable:
            self._group.set_writable(name, True)

    def _prepared(self, uuid: str, image_format: str) -> str:
        name = ImageName(uuid, image_format).text
        if name not in self._group.now().volumes:
            raise VdiMissing(f"{self._group.name} has no volume {name}")
        self._group.prepare([name])
        return name

    # Records

    def records(self) -> dict[str, bytes]:
        """Those of the volume for them, but for our own."""
        return {
            name: content
            for name, content in self._records.read().items()
            if not self._fitting.is_own(name)
        }

    def write_record(self, name: str, content: bytes) -> None:
        """Write all records anew."""
        self._records.replace(name, content)

    def remove_record(self, name: str) -> None:
        """Write all other records anew."""
        self._records.replace(name, None)

    def descriptions(self) -> Catalogue:
        """Read the volume for the names."""
        found = self._names.read()
        return found[1] if found else Catalogue()

    def is_described(self, catalogue: Catalogue, keep: Keep) -> bool:
        """Compare the volume for the names with what it would hold."""
        return self._names.is_written(self._allocation, catalogue, keep)

    def describe(self, catalogue: Catalogue, keep: Keep) -> None:
        """Write the volume for the names where it differs; make it where it is missing."""
        self._names.write(self._allocation, catalogue, keep)

    def forget_descriptions(self) -> None:
        """Leave the volume for the names: it goes with its group."""
