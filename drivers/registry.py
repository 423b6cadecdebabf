"""Every SR type by name. A new driver is one file and one line here."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module

from sm.errors import SmError
from sm.sr import SrDriver

DRIVERS: Mapping[str, str] = {
    "file": "sm.drivers.file:FileSr",
    "lvm": "sm.drivers.lvm:LvmSr",
    "lvmohba": "sm.drivers.hba:LvmOverHbaSr",
    "lvmoiscsi": "sm.drivers.iscsi:LvmOverIscsiSr",
    "nfs": "sm.drivers.nfs:NfsSr",
    "ext": "sm.drivers.ext:ExtSr",
}
"""SR type to `module:class`; a module is imported when its type is first used."""


def driver_class(sr_type: str) -> type[SrDriver]:
    """The driver of an SR type; raises `SRUnknownType`."""
    if sr_type not in DRIVERS:
        raise SmError(f"{sr_type!r}; the types are {', '.join(DRIVERS)}", name="SRUnknownType")
    module, _, attribute = DRIVERS[sr_type].partition(":")
    found: type[SrDriver] = getattr(import_module(module), attribute)
    return found
