"""Which volumes of a group are active on this host, and whether as the group has them now.

An active volume is a mapping in this kernel, made from the metadata as it was then. When another
host changes the metadata, nothing here notices; so a note says which state of the group (`seqno`)
all mappings of this host follow, and before any of them is used it is compared with the devices.
Mappings of volumes that are gone are taken away then, and the others loaded anew.

A mapping that is open can get another name, and cannot go. So the name of a removed volume that
something still has open is made free for the volume that has it now: its mapping is put aside.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from sm import durable, process
from sm.errors import ToolFailed
from sm.owner import boot_id
from sm.volumes.lvm.commands import TIMEOUT, Lvm
from sm.volumes.lvm.metadata import VolumeGroup, dashed
from sm.volumes.lvm.names import folder

log = logging.getLogger(__name__)

SYSFS = Path("/sys/block")
_UUID_PREFIX = "LVM-"
_ID_LENGTH = 32


@dataclass(frozen=True, slots=True)
class Active:
    """A mapping of a volume: the name of the mapping, and its folder in sysfs."""

    name: str
    place: Path


class Mappings:
    """The mappings of one volume group on this host. The caller holds the lock of the group."""

    def __init__(self, lvm: Lvm, note: Path) -> None:
        self._lvm = lvm
        self._note = note

    def follow(self, group: VolumeGroup) -> None:
        """See that all mappings are as the group has its volumes now."""
        if self._noted() == self._mark(group):
            return
        present = active(group)
        names = {volume.id: volume.name for volume in group.volumes.values()}
        for identity in present.keys() - names.keys():
            _take_away(identity, present[identity].name)
        self._load({each: present[each] for each in present.keys() & names.keys()}, group)
        _remove_dead_links(folder(group.name))
        self.note(group)

    def _load(self, left: dict[str, Active], group: VolumeGroup) -> None:
        """Load mappings anew, each under the name that its volume has now.

        A name is given away by one volume before another gets it, as on the master.
        """
        names = {volume.id: volume.name for volume in group.volumes.values()}
        while left:
            taken = {mapping.name for mapping in left.values()}
            wanted = {identity: mapping_name(group.name, names[identity]) for identity in left}
            ready = [
                identity
                for identity, mapping in left.items()
                if wanted[identity] == mapping.name or wanted[identity] not in taken
            ]
            if ready:
                paths = [f"{group.name}/{names[identity]}" for identity in ready]
                self._lvm.local("lvchange", "--refresh", *paths)
                left = {each: left[each] for each in left.keys() - set(ready)}
            else:  # names that went round in a circle
                identity = min(left)
                aside = _put_aside(identity, left[identity].name)
                left = {**left, identity: Active(aside, left[identity].place)}

    def note(self, group: VolumeGroup) -> None:
        """Say that all mappings follow the group as it is now."""
        self._note.parent.mkdir(parents=True, exist_ok=True)
        durable.write_file(self._note, self._mark(group).encode("ascii"))

    def activate(self, group: VolumeGroup, names: Collection[str]) -> None:
        """Make the paths of volumes appear; those that the group does not have are passed over."""
        place = folder(group.name)
        missing = [name for name in names if name in group.volumes and not (place / name).exists()]
        if missing:
            self._lvm.local("lvchange", "-ay", *(f"{group.name}/{name}" for name in missing))

    def _noted(self) -> str | None:
        try:
            return self._note.read_text(encoding="ascii")
        except FileNotFoundError:
            return None

    @staticmethod
    def _mark(group: VolumeGroup) -> str:
        return f"{boot_id()} {group.id} {group.seqno}"


def active(group: VolumeGroup) -> Mapping[str, Active]:
    """The mappings of a group on this host, by the identity of their volume."""
    wanted = _UUID_PREFIX + group.id.replace("-", "")
    found: dict[str, Active] = {}
    for place in SYSFS.glob("dm-*"):
        try:
            identity = (place / "dm" / "uuid").read_text(encoding="ascii").strip()
            name = (place / "dm" / "name").read_text(encoding="utf-8").strip()
        except OSError:
            continue  # it went in this moment, or is none of LVM's
        if identity.startswith(wanted) and len(identity) == len(wanted) + _ID_LENGTH:
            found[dashed(identity[len(wanted) :])] = Active(name, place)
    return found


def mapping_name(group: str, volume: str) -> str:
    """What LVM calls the mapping of a volume: a dash within a name is doubled."""
    return "-".join(name.replace("-", "--") for name in (group, volume))


def _take_away(identity: str, name: str) -> None:
    """Remove the mapping of a volume that another host has removed, or put it aside."""
    try:
        process.run(("dmsetup", "remove", "--retry", name), timeout=TIMEOUT)
    except ToolFailed as error:
        # Something of this host has it open still; nothing is to find it by that name any more.
        log.warning("the mapping of a removed volume stays: %s", error)
        if name != _aside(identity):
            _put_aside(identity, name)


def _put_aside(identity: str, name: str) -> str:
    """Give a mapping a name that no volume has; returns that."""
    process.run(("dmsetup", "rename", name, _aside(identity)), timeout=TIMEOUT)
    return _aside(identity)


def _aside(identity: str) -> str:
    return f"sm-aside-{identity}"


def _remove_dead_links(place: Path) -> None:
    """Remove the paths that lead nowhere any more, where no udev has done it."""
    if place.is_dir():
        for path in place.iterdir():
            if path.is_symlink() and not path.exists():
                path.unlink(missing_ok=True)
