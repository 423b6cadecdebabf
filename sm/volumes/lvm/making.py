"""Making, leaving and removing the volume group of an SR."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sm import process
from sm.config import Settings
from sm.errors import SmError, SrInUse, SrUnavailable
from sm.volumes.described import Catalogue
from sm.volumes.lvm import opening
from sm.volumes.lvm.commands import TIMEOUT, Lvm
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.name_volume import NameVolume
from sm.volumes.lvm.record_volume import RecordVolume
from sm.volumes.lvm.sizes import Allocation

EXTENT = "4m"
"""What every manager in this style uses."""

METADATA = "16m"
"""Room for the text that describes the volumes, twice: each takes about 500 bytes of it."""

ALLOCATION_TAG = "sm-allocation-"


def make_group(
    name: str, devices: Sequence[Path], allocation: Allocation, settings: Settings
) -> None:
    """Make a volume group on devices that hold nothing; all of them are taken.

    A crash leaves a device that is LVM's and in no group, which may be taken again, or a group that
    can be attached: what it lacks is made then.
    """
    Lvm(devices).change(
        "vgcreate",
        *("--physicalextentsize", EXTENT),
        *("--metadatasize", METADATA),
        *("--setautoactivation", "n"),
        *("--addtag", f"{ALLOCATION_TAG}{allocation}"),
        name,
        *map(str, devices),
    )
    group = opening.open_group(name, devices, settings)
    RecordVolume(group).make()
    NameVolume(group).write(allocation, Catalogue(), lambda _: False)


def allocation_of(group: Group) -> Allocation | None:
    """How an SR allocates, as its volume group says; None for one of another manager."""
    for tag in group.now().tags:
        if tag.startswith(ALLOCATION_TAG):
            return Allocation(tag.removeprefix(ALLOCATION_TAG))
    return None


def deactivate(place: Mapping[str, Any], settings: Settings) -> None:
    """Take all volumes of a group away from this host; raises `SrInUse` where one is open.

    Nothing to do where the devices are gone already with all that was on them.
    """
    group = _group(place, settings)
    try:
        with group.locked("deactivate"):
            group.prepare([])
            group.lvm.local("vgchange", "-an", group.name)
    except SrUnavailable:
        return
    except SmError as error:
        raise SrInUse(f"{group.name}: {error.detail}") from error


def remove_group(place: Mapping[str, Any], settings: Settings) -> None:
    """Remove a volume group with all that is in it."""
    group = _group(place, settings)
    group.prepare([])
    group.lvm.change("vgremove", "-ff", group.name)
    group.lvm.change("pvremove", *place["devices"])


def _group(place: Mapping[str, Any], settings: Settings) -> Group:
    return opening.open_group(place["group"], [Path(each) for each in place["devices"]], settings)


def is_left_over(device: Path) -> bool:
    """Whether a device is LVM's and in no group."""
    argv = ("blkid", "-p", "-o", "value", "-s", "TYPE", str(device))
    if process.run(argv, timeout=TIMEOUT, accept=(0, 2)).stdout.strip() != "LVM2_member":
        return False
    (row,) = Lvm([device]).report("pvs", "-o", "vg_name", str(device))
    return not row["vg_name"]
