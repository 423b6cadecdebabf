"""What every command of the CLI works with: the settings, the pool, and SMAPI requests to drivers.

The CLI stands where XAPI would: it keeps the records of SRs and sends the drivers the same
requests, carried out in this process.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from sm import commands, config
from sm.cli.output import Output
from sm.cli.resolve import pick
from sm.config import Settings
from sm.drivers.registry import driver_class
from sm.errors import InvalidArgument, SrUnavailable, VdiMissing
from sm.gc.state.ledger import Ledger
from sm.pool.base import HostRecord, Pool, PoolAdmin, SrRecord, VdiRecord
from sm.pool.open import open_pool
from sm.repository import Repository
from sm.smapi.request import Request
from sm.smapi.xmlrpc import Value


@dataclass(frozen=True)
class Admin:
    """One run of the CLI."""

    settings: Settings
    output: Output

    @cached_property
    def pool(self) -> Pool:
        """The pool database."""
        return open_pool(self.settings, None)

    @property
    def ledger(self) -> Ledger:
        """What the collectors of this host remember."""
        return Ledger(self.settings.ledger)

    @property
    def records(self) -> PoolAdmin:
        """The pool database where it is ours to keep; with XAPI the records are XAPI's."""
        if not isinstance(self.pool, PoolAdmin):
            raise InvalidArgument("the records of SRs belong to XAPI here; use xe for this")
        return self.pool

    def find_sr(self, text: str) -> SrRecord:
        """An SR by UUID, unique prefix of it, or name."""
        found = pick(text, [(sr.uuid, sr.name_label, sr) for sr in self.pool.srs()])
        if found is None:
            raise SrUnavailable(f"there is no SR {text!r}")
        return found

    def chosen_srs(self, text: str | None) -> list[SrRecord]:
        """The SR that is named; all of them where none is."""
        return [self.find_sr(text)] if text else self.pool.srs()

    def only_sr(self) -> SrRecord:
        """The SR that is meant when none is named: the only one there is."""
        known = self.pool.srs()
        if len(known) != 1:
            raise InvalidArgument(f"there are {len(known)} SRs; name one with --sr")
        return known[0]

    def find_vdi(self, text: str) -> tuple[SrRecord, VdiRecord]:
        """A VDI, and its SR, by UUID, unique prefix of it, or name."""
        known = [
            (vdi.uuid, vdi.name_label if vdi.managed else "", (sr, vdi))
            for sr in self.pool.srs()
            for vdi in self.pool.vdis(sr.ref)
        ]
        found = pick(text, known)
        if found is None:
            raise VdiMissing(f"there is no VDI {text!r}")
        return found

    def find_host(self, text: str) -> HostRecord:
        """A host by UUID, unique prefix of it, or name."""
        found = pick(text, [(host.uuid, host.name_label, host) for host in self.pool.hosts()])
        if found is None:
            raise InvalidArgument(f"the pool has no host {text!r}")
        return found

    def repository(self, sr: SrRecord) -> Repository:
        """An SR that is attached here."""
        return Repository.open(sr.uuid, self.settings, self.pool)

    def device_config(self, sr: SrRecord) -> dict[str, str]:
        """How this host reaches the SR."""
        host = self.pool.this_host().ref
        for pbd in self.pool.pbds(sr.ref):
            if pbd.host == host:
                return dict(pbd.device_config)
        raise SrUnavailable(f"SR {sr.uuid} has no PBD on this host")

    def call(self, command: str, sr: SrRecord, *args: str, **members: Any) -> Value:
        """Send one SMAPI request for an SR."""
        return self.call_driver(
            command,
            sr.type,
            *args,
            sr_ref=sr.ref,
            sr_uuid=sr.uuid,
            device_config={**self.device_config(sr), **self._mastership(sr)},
            **members,
        )

    def _mastership(self, sr: SrRecord) -> dict[str, str]:
        return {"SRmaster": "true" if self.pool.is_sr_master(sr) else "false"}

    def call_driver(self, command: str, sr_type: str, *args: str, **members: Any) -> Value:
        """Send one SMAPI request to the driver of an SR type."""
        driver = driver_class(sr_type)(self.settings)
        request = Request.model_validate(
            {
                "command": command,
                "args": list(args),
                "host_ref": self.pool.this_host().ref,
                **members,
            }
        )
        return commands.execute(driver, request)

    def call_vdi(self, command: str, vdi_text: str, *args: str, **members: Any) -> Value:
        """Send one SMAPI request for a VDI."""
        sr, vdi = self.find_vdi(vdi_text)
        return self.call(
            command,
            sr,
            *args,
            vdi_ref=vdi.ref,
            vdi_uuid=vdi.uuid,
            vdi_location=vdi.location,
            **members,
        )


def open_admin(root: Path | None, *, as_json: bool) -> Admin:
    """The administrator's view of the given or default root."""
    return Admin(config.load(root), Output(as_json=as_json))
