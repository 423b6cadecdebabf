"""Opening the store of an attached volume group."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from sm.config import Settings
from sm.cowutil.registry import Formats
from sm.locks import Locks
from sm.volumes.lvm.commands import Lvm
from sm.volumes.lvm.devices import Devices
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.mappings import Mappings
from sm.volumes.lvm.sizes import Allocation
from sm.volumes.lvm.store import LvmStore


def place_of(name: str, devices: Sequence[Path], allocation: Allocation) -> dict[str, Any]:
    """What `open_store` needs to find a volume group again; see `sm.attachment`."""
    return {
        "group": name,
        "devices": [str(device) for device in devices],
        "allocation": str(allocation),
    }


def open_group(name: str, devices: Sequence[Path], settings: Settings) -> Group:
    """A volume group on its devices, with what this host knows of it."""
    lvm = Lvm(devices)
    locks = Locks(settings.locks, settings.host_uuid, settings.lock_seconds)
    return Group(
        name,
        Devices(devices, name),
        lvm,
        Mappings(lvm, settings.run / "lvm" / f"{name}.followed"),
        lambda operation: locks.hold("lvm", name, operation),
    )


def open_store(place: Mapping[str, Any], formats: Formats, settings: Settings) -> LvmStore:
    """The store of an attached volume group."""
    devices = [Path(device) for device in place["devices"]]
    group = open_group(place["group"], devices, settings)
    return LvmStore(group, formats, Allocation(place["allocation"]))
