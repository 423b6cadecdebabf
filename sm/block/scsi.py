"""SCSI disks as the kernel shows them in sysfs. All but `rescan` only reads below a given root.

A logical unit is known by its SCSI id, whatever the kernel calls it: a digit for the kind of name
and the name itself, as udev's `scsi_id` has it (SPC-4, 7.8.6, designators of page 0x83).
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from sm.errors import SmError

SECTOR = 512  # unit of `size` in sysfs, whatever the device's own

_KINDS = {"t10": "1", "eui": "2", "naa": "3"}
_ADDRESS = re.compile(r"([0-9]+):([0-9]+):([0-9]+):([0-9]+)")
_SCSI_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:+=-]{0,199}")


@dataclass(frozen=True, slots=True)
class Unit:
    """One path to a logical unit. `size` in bytes; `place` is its folder in sysfs.

    `host`, `channel`, `target` and `lun` are its address on this host.
    """

    name: str
    host: int
    channel: int
    target: int
    lun: int
    scsi_id: str
    vendor: str
    serial: str
    size: int
    place: Path

    @property
    def device(self) -> Path:
        """Its node."""
        return Path("/dev", self.name)


def scsi_id(wwid: str) -> str:
    """The SCSI id of what the kernel has in `wwid`; empty where a unit has no name of its own."""
    kind, separator, name = wwid.strip().partition(".")
    if not separator or kind not in _KINDS:
        return ""
    return _KINDS[kind] + re.sub(r"\s+", "_", name.strip())


def require_scsi_id(value: str) -> str:
    """A SCSI id that came from outside; raises `ConfigSCSIid`."""
    if not _SCSI_ID.fullmatch(value):
        raise SmError(f"{value[:60]!r} is no SCSI id", name="ConfigSCSIid")
    return value


def units(sysfs: Path) -> list[Unit]:
    """All disks that are reached by SCSI, by their address."""
    found = []
    for entry in (sysfs / "class" / "scsi_disk").glob("*"):
        match = _ADDRESS.fullmatch(entry.name)
        device = entry / "device"
        names = sorted(path.name for path in (device / "block").glob("*"))
        if match is None or not names:
            continue  # on its way in or out
        host, channel, target, lun = map(int, match.groups())
        found.append(
            Unit(
                name=names[0],
                host=host,
                channel=channel,
                target=target,
                lun=lun,
                scsi_id=scsi_id(read(device / "wwid")),
                vendor=read(device / "vendor"),
                serial=_serial(device / "vpd_pg80"),
                size=int(read(device / "block" / names[0] / "size") or "0") * SECTOR,
                place=device.resolve(),
            )
        )
    return sorted(found, key=lambda unit: (unit.host, unit.channel, unit.target, unit.lun))


def read(path: Path) -> str:
    """A small text of sysfs, empty where it cannot be read: devices come and go."""
    try:
        return path.read_bytes().decode("utf-8", "replace").strip()
    except OSError:
        return ""


def _serial(page: Path) -> str:
    """The serial number in page 0x80: two bytes of length behind two others (SPC-4, 7.8.19)."""
    try:
        raw = page.read_bytes()
    except OSError:
        return ""
    length = int.from_bytes(raw[2:4], "big")
    return raw[4 : 4 + length].decode("utf-8", "replace").strip(" \0")


def device_of(wanted: str, known: Sequence[Unit], sysfs: Path) -> Path | None:
    """The device of a unit: the multipath device over its paths if there is one, else a path."""
    paths = [unit for unit in known if unit.scsi_id == wanted]
    for unit in paths:
        for holder in sorted((sysfs / "block" / unit.name / "holders").glob("dm-*")):
            if read(holder / "dm" / "uuid").startswith("mpath-"):
                return Path("/dev/mapper", read(holder / "dm" / "name"))
    return paths[0].device if paths else None


def rescan(sysfs: Path, hosts: Collection[int] | None = None) -> None:
    """Have the kernel look for new units, on all adapters or on some."""
    for entry in sorted((sysfs / "class" / "scsi_host").glob("host*")):
        if hosts is None or int(entry.name[4:]) in hosts:
            (entry / "scan").write_text("- - -", encoding="ascii")


def rescan_sizes(known: Sequence[Unit], wanted: str) -> None:
    """Have the kernel ask all paths of a unit for its size, which may have grown."""
    for unit in known:
        if unit.scsi_id == wanted:
            (unit.place / "rescan").write_text("1", encoding="ascii")


def members(unit: Unit) -> Mapping[str, str]:
    """What a choice of units says of one, by SMAPI's names."""
    return {
        "vendor": unit.vendor,
        "serial": unit.serial,
        "LUNid": str(unit.lun),
        "size": str(unit.size),
        "SCSIid": unit.scsi_id,
    }
