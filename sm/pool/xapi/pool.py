"""`XapiPool`: the records as XAPI keeps them.

Each XenAPI call is atomic by itself; where one of our methods needs several, its docstring says
what a crash between them leaves.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, TypeVar

from sm.errors import HostUnreachable, RecordMissing, SmError
from sm.inventory import installation_uuid
from sm.pool.base import FieldValue, Pool
from sm.pool.errors import PoolHostUnknown, PoolProtocolError
from sm.pool.records import (
    ConfigMap,
    HostRecord,
    NewVdi,
    PbdRecord,
    SrRecord,
    TaskRecord,
    TaskStatus,
    VdiRecord,
)
from sm.pool.xapi import wire
from sm.pool.xapi.connection import Connection

PLUGIN = "sm"
"""The name of our executable among XAPI's host plugins."""


class _Identified(Protocol):
    @property
    def uuid(self) -> str: ...


Record = TypeVar("Record", bound=_Identified)


class XapiPool(Pool):
    """The pool of the XAPI behind the Unix socket `path`.

    `session_ref` is the session of a request, which is never ended here; without one, a session of
    our own is opened. `inventory` is the file that says which host this is.
    """

    def __init__(self, path: Path, inventory: Path, session_ref: str | None = None) -> None:
        self._connection = Connection(path, session_ref)
        self._inventory = inventory
        self._this_host: HostRecord | None = None

    def close(self) -> None:
        """End a session of our own; used again, the pool opens another."""
        self._connection.close()

    # Hosts

    def this_host(self) -> HostRecord:
        """The host that the inventory names, as it was when first asked for."""
        if self._this_host is None:
            uuid = self._installation()
            try:
                ref = self._call("host.get_by_uuid", uuid)
            except RecordMissing as error:
                raise PoolHostUnknown(f"{self._inventory}: no host {uuid}") from error
            self._this_host = wire.host_record(ref, self._call("host.get_record", ref))
        return self._this_host

    def _installation(self) -> str:
        try:
            uuid = installation_uuid(self._inventory)
        except OSError as error:
            raise PoolHostUnknown(f"{self._inventory}: {error.strerror}") from error
        if uuid is None:
            raise PoolHostUnknown(f"{self._inventory} does not name this installation")
        return uuid

    def hosts(self) -> list[HostRecord]:
        """All hosts of the pool."""
        found = self._records("host")
        return _by_uuid([wire.host_record(ref, fields) for ref, fields in found.items()])

    def call_host(self, ref: str, function: str, arguments: Mapping[str, str]) -> str:
        """Have XAPI run the plugin there; see `sm.hosts.plugin`."""
        answer = self._connection.call_plugin(ref, PLUGIN, function, dict(arguments))
        if not isinstance(answer, str):
            raise HostUnreachable(f"host {ref}: the plugin answers with no text")
        return answer

    # SRs

    def sr(self, ref: str) -> SrRecord:
        """One SR."""
        return wire.sr_record(ref, self._call("SR.get_record", ref))

    def sr_by_uuid(self, uuid: str) -> SrRecord:
        """One SR."""
        return self.sr(self._call("SR.get_by_uuid", uuid))

    def srs(self) -> list[SrRecord]:
        """All SRs."""
        found = self._records("SR")
        return _by_uuid([wire.sr_record(ref, fields) for ref, fields in found.items()])

    def sr_master(self, sr: SrRecord) -> str:
        """The pool master; every host that has the SR, if it is not shared."""
        if not sr.shared:
            return self.this_host().ref
        return wire.pool_master(self._records("pool"))

    def secret(self, uuid: str) -> str:
        """The value of one of XAPI's secrets."""
        try:
            return str(self._call("secret.get_value", self._call("secret.get_by_uuid", uuid)))
        except RecordMissing as error:
            raise SmError(uuid, name="InvalidSecret") from error

    def pbds(self, sr_ref: str) -> list[PbdRecord]:
        """How each host reaches an SR."""
        found = self._records("PBD", sr_ref)
        return _by_uuid([wire.pbd_record(ref, fields) for ref, fields in found.items()])

    def set_sr_sizes(
        self, ref: str, *, virtual_allocation: int, physical_size: int, physical_utilisation: int
    ) -> None:
        """Set the sizes of an SR, in bytes, those that differ; stopped early, not all are set."""
        wanted = {
            "virtual_allocation": virtual_allocation,
            "physical_size": physical_size,
            "physical_utilisation": physical_utilisation,
        }
        present = self.sr(ref)
        for name, value in wanted.items():
            if getattr(present, name) != value:
                self._call(f"SR.set_{name}", ref, wire.wire_number(value))

    # VDIs

    def vdi(self, ref: str) -> VdiRecord:
        """One VDI."""
        return wire.vdi_record(ref, self._call("VDI.get_record", ref))

    def vdi_by_uuid(self, uuid: str) -> VdiRecord:
        """One VDI."""
        return self.vdi(self._call("VDI.get_by_uuid", uuid))

    def vdis(self, sr_ref: str) -> list[VdiRecord]:
        """All VDIs of an SR, in one call."""
        found = self._records("VDI", sr_ref)
        return _by_uuid([wire.vdi_record(ref, fields) for ref, fields in found.items()])

    def introduce_vdi(self, new: NewVdi) -> str:
        """Add the record of a VDI."""
        return str(self._call("VDI.db_introduce", *wire.introduce_parameters(new)))

    def forget_vdi(self, ref: str) -> None:
        """Remove the record of a VDI."""
        self._call("VDI.db_forget", ref)

    # Tasks

    def create_task(self, name: str, sr_ref: str) -> str:
        """Add a task; stopped before it is said to be about the SR, XAPI drops it in time."""
        ref = str(self._call("task.create", name, ""))
        self._call("task.set_other_config", ref, {wire.APPLIES_TO: sr_ref})
        return ref

    def tasks(self, sr_ref: str) -> list[TaskRecord]:
        """The tasks about an SR."""
        found = [wire.task_record(ref, fields) for ref, fields in self._records("task").items()]
        return _by_uuid([task for task in found if task is not None and task.sr == sr_ref])

    def set_task_progress(self, ref: str, progress: float) -> None:
        """Say how far a task is, from 0 to 1."""
        self._call("task.set_progress", ref, float(progress))

    def finish_task(self, ref: str, status: TaskStatus) -> None:
        """Say how a task ended."""
        self._call("task.set_status", ref, status.value)

    def destroy_task(self, ref: str) -> None:
        """Remove the record of a task, if there is one."""
        try:
            self._call("task.destroy", ref)
        except RecordMissing:
            return  # XAPI drops finished tasks by itself

    # Primitives

    def _add(self, config_map: ConfigMap, ref: str, key: str, value: str) -> None:
        owner, name = config_map.value
        self._call(f"{owner}.add_to_{name}", ref, key, value)

    def _remove(self, config_map: ConfigMap, ref: str, key: str) -> None:
        owner, name = config_map.value
        self._call(f"{owner}.remove_from_{name}", ref, key)

    def _set_vdi_fields(self, ref: str, changes: Mapping[str, FieldValue]) -> None:
        """One call for each field; stopped early, not all are set."""
        for name, value in changes.items():
            self._call(f"VDI.set_{name}", ref, wire.wire_field(name, value))

    def _call(self, method: str, *parameters: Any) -> Any:
        return self._connection.call(method, *parameters)

    def _records(self, kind: str, sr_ref: str | None = None) -> dict[str, Any]:
        """All records of a class, or those with the given SR, by reference."""
        if sr_ref is None:
            found = self._call(f"{kind}.get_all_records")
        elif '"' in sr_ref or "\\" in sr_ref:
            return {}  # no reference of XAPI's, and it would change the meaning of the expression
        else:
            found = self._call(f"{kind}.get_all_records_where", f'field "SR" = "{sr_ref}"')
        if not isinstance(found, dict):
            raise PoolProtocolError(f"the records of {kind} are no struct")
        return found


def _by_uuid(records: list[Record]) -> list[Record]:
    """Sorted, so that lists read alike whatever order XAPI keeps."""
    return sorted(records, key=lambda record: record.uuid)
