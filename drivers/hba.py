"""The LVM over HBA SR: the volume group is on a unit behind an adapter of this host.

Adapters are those for Fibre Channel and SAS, among others; the storage shows its units to them
without anything that this host would have to say. A missing SCSIid is answered with a list.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from sm import plugin
from sm.block import adapters, devices, given, scsi
from sm.cowutil.registry import FORMATS
from sm.drivers import lvm
from sm.drivers.lvm import LvmSr
from sm.errors import ChoiceNeeded
from sm.smapi import probe
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr

APPEAR_SECONDS = 10.0
"""For a unit that the storage shows since a moment ago, after all adapters were told to look."""

POLL_SECONDS = 0.2


class LvmOverHbaSr(LvmSr):
    """Images in a volume group on the unit `device_config:SCSIid`."""

    info = DriverInfo(
        sr_type="lvmohba",
        name="LVM over HBA SR",
        description="Keeps virtual disks as logical volumes on a unit behind an adapter",
        features=lvm.FEATURES,
        configuration=(
            ("SCSIid", "SCSI id of the unit"),
            *(row for row in LvmSr.info.configuration if row[0] != "device"),
        ),
        image_formats=tuple(FORMATS),
    )

    def devices(self, device_config: Mapping[str, str]) -> list[Path]:
        """Find the unit; raises `ChoiceNeeded` with all that there are."""
        wanted = given.text(device_config, "SCSIid")
        if wanted:
            wanted = scsi.require_scsi_id(wanted)
        reached = _reached()
        found = _device(wanted, reached)
        if found is None:
            scsi.rescan(devices.SYSFS, {adapter.number for adapter in _adapters()})
            deadline = time.monotonic() + APPEAR_SECONDS
            while found is None and wanted and time.monotonic() < deadline:
                time.sleep(POLL_SECONDS)
                reached = _reached()
                found = _device(wanted, reached)
        if found is None:
            raise _choice(reached)
        return [found]

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs on the unit."""
        more = {"SCSIid": device_config.get("SCSIid", "")}
        return [replace(each, more=more) for each in super().probe(device_config)]


Reached = list[tuple[adapters.Adapter, scsi.Unit]]


def _adapters() -> list[adapters.Adapter]:
    return adapters.adapters(devices.SYSFS)


def _reached() -> Reached:
    return adapters.reached_by(_adapters(), scsi.units(devices.SYSFS))


def _device(wanted: str, reached: Reached) -> Path | None:
    return scsi.device_of(wanted, [unit for _, unit in reached], devices.SYSFS)


def _choice(reached: Reached) -> ChoiceNeeded:
    """The fault that says which units there are, each once with the number of its paths."""
    paths: dict[str, int] = {}
    for _, unit in reached:
        paths[unit.scsi_id] = paths.get(unit.scsi_id, 0) + 1
    first = {unit.scsi_id: (adapter, unit) for adapter, unit in reversed(reached)}
    document = probe.block_devices(
        (adapters.members(*first[name], count) for name, count in paths.items()),
        map(adapters.adapter_members, _adapters()),
    )
    return ChoiceNeeded(
        f"the adapters reach {', '.join(paths) or 'no unit'}", document, name="ConfigSCSIid"
    )


def main() -> None:
    """Answer one call: the executable `LVMoHBASR`."""
    plugin.main(LvmOverHbaSr)
