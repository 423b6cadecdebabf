"""The LVM SR: images as logical volumes of a volume group that the SR has for itself.

Drivers whose devices must be reached first, over iSCSI say, are this one with other devices.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

from sm import plugin
from sm.attachment import Attachment
from sm.block import given
from sm.block.devices import require_empty
from sm.cowutil.registry import FORMATS
from sm.drivers import directory
from sm.errors import InvalidArgument, SmError, SrExists, SrUnavailable
from sm.smapi.driver_info import DriverInfo
from sm.sr import FoundSr, SrDriver
from sm.uuids import require_uuid
from sm.volumes.described import Catalogue
from sm.volumes.lvm import making, opening
from sm.volumes.lvm.commands import Lvm
from sm.volumes.lvm.group import Group
from sm.volumes.lvm.name_volume import NameVolume
from sm.volumes.lvm.names import GROUP_PREFIX, group_name
from sm.volumes.lvm.sizes import Allocation

log = logging.getLogger(__name__)

ALLOCATION = "allocation"
METADATA = "metadata"
"""In the sm_config of a probe: `true` to be told the names, too."""

FEATURES = (*directory.FEATURES, "SR_TRIM")


class LvmSr(SrDriver):
    """Images in a volume group on the devices `device_config:device`."""

    info = DriverInfo(
        sr_type="lvm",
        name="LVM SR",
        description="Keeps virtual disks as logical volumes of a volume group",
        features=FEATURES,
        configuration=(
            ("device", "paths of the devices, below /dev, by commas"),
            (
                ALLOCATION,
                "thick: disks have all their space; thin: it comes as they are written",
            ),
            directory.PREFERRED,
        ),
        image_formats=tuple(FORMATS),
    )
    sm_config_keys = (ALLOCATION, METADATA)

    def devices(self, device_config: Mapping[str, str]) -> list[Path]:
        """The devices of the SR, reachable on this host. May be repeated."""
        return given.device_paths(device_config)

    def release(self, attachment: Attachment) -> None:
        """Leave the devices, whose volumes are not active any more. May be repeated."""

    def probe(self, device_config: Mapping[str, str]) -> list[FoundSr]:
        """The SRs whose volume groups are on the devices."""
        devices = _present(self.devices(device_config))
        rows = Lvm(devices).report("vgs", "-o", "vg_name,vg_size,pv_name")
        found: dict[str, list[str]] = {}
        sizes: dict[str, int] = {}
        for row in rows:
            if row["vg_name"].startswith(GROUP_PREFIX):
                sr_uuid = row["vg_name"].removeprefix(GROUP_PREFIX)
                found.setdefault(sr_uuid, []).append(row["pv_name"])
                sizes[sr_uuid] = int(row["vg_size"])
        named = device_config.get(METADATA, "").lower() == "true"
        return [
            FoundSr(uuid, tuple(paths), sizes[uuid], self._named(uuid, paths) if named else {})
            for uuid, paths in found.items()
        ]

    def _named(self, sr_uuid: str, devices: Sequence[str]) -> Mapping[str, str]:
        """What a probe tells of the names in an SR; nothing where they cannot be read."""
        group = opening.open_group(
            group_name(sr_uuid), [Path(each) for each in devices], self.settings
        )
        try:
            found = NameVolume(group).read()
        except SmError as error:
            log.warning("SR %s: %s", sr_uuid, error)
            return {}
        catalogue = found[1] if found else Catalogue()
        holds_pool = any(disk.type == "metadata" for disk in catalogue.disks.values())
        return {
            "name_label": catalogue.name_label,
            "name_description": catalogue.name_description,
            "pool_metadata_detected": str(holds_pool).lower(),
        }

    def create(self, sr_uuid: str, device_config: Mapping[str, str], size: int) -> None:
        """Make the volume group; `size` has no meaning, as all of the devices is taken."""
        require_uuid(sr_uuid)
        allocation = _allocation(device_config)
        devices = _present(self.devices(device_config))
        present = self.probe(device_config)
        if present:
            raise SrExists(f"the devices hold SR {present[0].uuid}")
        for device in devices:
            if not making.is_left_over(device):
                require_empty(device)
        name = group_name(sr_uuid)
        making.make_group(name, devices, allocation, self.settings)
        # Its records were written; it is not attached yet.
        making.deactivate(opening.place_of(name, devices, allocation), self.settings)

    def attach(self, sr_uuid: str, device_config: Mapping[str, str]) -> Attachment:
        """See that the devices hold the volume group of this SR."""
        devices = _present(self.devices(device_config))
        name = group_name(sr_uuid)
        group = opening.open_group(name, devices, self.settings)
        now = group.now()
        if len(now.devices) > len(devices):
            raise SrUnavailable(
                f"{name} is on {len(now.devices)} devices, {len(devices)} are given"
            )
        allocation = making.allocation_of(group) or _allocation_elsewhere(group, device_config)
        place = opening.place_of(name, devices, allocation)
        return self.attachments.describe(sr_uuid, self.info.sr_type, "lvm", place)

    def detach(self, attachment: Attachment) -> None:
        """Take the volumes away from this host; refused while something has one open."""
        making.deactivate(attachment.place, self.settings)
        self.release(attachment)

    def destroy(self, attachment: Attachment, device_config: Mapping[str, str]) -> None:
        """Remove the volume group, and what marks its devices as LVM's."""
        making.remove_group(attachment.place, self.settings)
        self.release(attachment)


def _present(devices: Sequence[Path]) -> list[Path]:
    for device in devices:
        if not device.is_block_device():
            raise SmError(f"{device} is no block device of this host", name="ConfigDeviceInvalid")
    return list(devices)


def _allocation(device_config: Mapping[str, str]) -> Allocation:
    value = given.text(device_config, ALLOCATION) or Allocation.THICK
    try:
        return Allocation(value)
    except ValueError as error:
        raise InvalidArgument(f"{ALLOCATION} is {value!r}, neither thick nor thin") from error


def _allocation_elsewhere(group: Group, device_config: Mapping[str, str]) -> Allocation:
    """How the SR of another manager allocates: as its record says, else its volume group."""
    if not given.text(device_config, ALLOCATION):
        try:
            found = NameVolume(group).read()
        except SmError as error:
            log.warning("%s: %s", group.name, error)
            found = None
        if found is not None and found[0].allocation in set(Allocation):
            return Allocation(found[0].allocation)
    return _allocation(device_config)


def main() -> None:
    """Answer one call: the executable `LVMSR`."""
    plugin.main(LvmSr)
