"""The SCSI adapters of this host, such as those for Fibre Channel, as sysfs shows them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from sm.block.scsi import Unit, read


@dataclass(frozen=True, slots=True)
class Adapter:
    """One adapter: its number, the name of its driver, and its port name on the network, if any."""

    number: int
    driver: str
    port_name: str
    state: str

    @property
    def name(self) -> str:
        """As the kernel calls it."""
        return f"host{self.number}"


def adapters(sysfs: Path) -> list[Adapter]:
    """All adapters but those of iSCSI sessions, which have a driver of their own."""
    found = []
    for entry in (sysfs / "class" / "scsi_host").glob("host*"):
        if (sysfs / "class" / "iscsi_host" / entry.name).exists():
            continue
        fc, sas = sysfs / "class" / "fc_host" / entry.name, sysfs / "class" / "sas_host"
        driver = read(entry / "proc_name")
        if not driver and (sas / entry.name).exists():
            driver = "sas"
        found.append(
            Adapter(
                int(entry.name[4:]),
                driver or "unknown",
                read(fc / "port_name").removeprefix("0x"),
                read(fc / "port_state") or read(entry / "state"),
            )
        )
    return sorted(found, key=lambda adapter: adapter.number)


def reached_by(found: Iterable[Adapter], known: Iterable[Unit]) -> list[tuple[Adapter, Unit]]:
    """Each unit with a name of its own that one of the adapters reaches."""
    numbers = {adapter.number: adapter for adapter in found}
    return [(numbers[unit.host], unit) for unit in known if unit.host in numbers and unit.scsi_id]


def members(adapter: Adapter, unit: Unit, paths: int) -> Mapping[str, str]:
    """What a choice of devices says of one, by SMAPI's names."""
    return {
        "path": str(unit.device),
        "numpaths": str(paths),
        "SCSIid": unit.scsi_id,
        "vendor": unit.vendor,
        "serial": unit.serial,
        "size": str(unit.size),
        "adapter": adapter.name,
        "channel": str(unit.channel),
        "id": str(unit.target),
        "lun": str(unit.lun),
        "hba": adapter.driver,
    }


def adapter_members(adapter: Adapter) -> Mapping[str, str]:
    """What the document says of an adapter, by SMAPI's names."""
    return {
        "host": adapter.name,
        "name": adapter.driver,
        "id": adapter.port_name,
        "state": adapter.state,
    }
