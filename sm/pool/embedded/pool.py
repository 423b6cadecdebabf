"""`EmbeddedPool`: the records in a database of ours, shared by all processes of its hosts."""

from __future__ import annotations

import uuid as uuids
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sm.config import Credentials
from sm.errors import DuplicateKey, HostUnreachable, RecordMissing, SrInUse
from sm.pool.base import FieldValue, PoolAdmin
from sm.pool.embedded import rows
from sm.pool.embedded.choose import database_at
from sm.pool.embedded.database import NotUnique, OwnerMissing, Transaction, Value
from sm.pool.errors import RecordExists
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
from sm.pool.times import canonical_time


class EmbeddedPool(PoolAdmin):
    """The pool in a database, as seen by one host, which is registered if it is not known.

    `place` is the path of an SQLite file, or the URL of a PostgreSQL database. Several hosts, each
    with its own UUID, may share a file when they share the machine, and a URL wherever they are.
    Once the tables are up to date and the host registered, reading takes no write lock.
    `credentials` are for calls to other hosts over TLS.
    """

    def __init__(
        self,
        place: Path | str,
        host_uuid: str,
        host_name: str,
        credentials: Credentials | None = None,
    ) -> None:
        self._database = database_at(place)
        self._host_uuid = host_uuid
        self._host_name = host_name
        self._credentials = credentials

    def close(self) -> None:
        """Close the database; used again, it is opened anew."""
        self._database.close()

    # Hosts

    def this_host(self) -> HostRecord:
        """The host with our UUID; registers it when it is new."""
        found = self._all("host", "uuid", self._host_uuid)
        if not found:
            with self._database.writing() as transaction:
                transaction.execute(
                    "INSERT INTO host (ref, uuid, name_label) VALUES (?, ?, ?)"
                    " ON CONFLICT (uuid) DO NOTHING",
                    (_new_ref(), self._host_uuid, self._host_name),
                )
            found = self._all("host", "uuid", self._host_uuid)
        return HostRecord(**found[0])

    def hosts(self) -> list[HostRecord]:
        """All hosts, this one included."""
        self.this_host()
        return [HostRecord(**fields) for fields in self._all("host")]

    def add_host(self, uuid: str, name_label: str) -> str:
        """Add a host."""
        ref = _new_ref()
        with self._adding(f"host {uuid}") as transaction:
            rows.insert(transaction, "host", {"ref": ref, "uuid": uuid, "name_label": name_label})
        return ref

    def set_host_address(self, ref: str, address: str) -> None:
        """Say where a host answers; no write when it is known."""
        if self._one("host", "ref", ref)["address"] != address:
            self._update("host", ref, {"address": address})

    def remove_host(self, ref: str) -> None:
        """Remove a host and its PBDs, in one transaction."""
        with self._database.writing() as transaction:
            rows.require(transaction, "host", ref)
            for table, condition in (
                ("pbd", "host = ? AND currently_attached = 1"),
                ("sr", "master = ?"),
            ):
                query = f"SELECT uuid FROM {table} WHERE {condition}"
                if (found := transaction.execute(query, (ref,)).fetchone()) is not None:
                    raise SrInUse(f"host {ref} is still named by {table.upper()} {found['uuid']}")
            transaction.execute("DELETE FROM pbd WHERE host = ?", (ref,))
            rows.delete(transaction, "host", ref)

    def call_host(self, ref: str, function: str, arguments: Mapping[str, str]) -> str:
        """Ask its `sm-hostd`, which refuses when it is another host's."""
        # Few commands ask another host; XML-RPC and HTTP take 40 ms to import.
        from sm.remote.client import ask  # noqa: PLC0415

        host = HostRecord(**self._one("host", "ref", ref))
        try:
            return ask(host.address, function, {**arguments, "host": host.uuid}, self._credentials)
        except HostUnreachable as error:
            named = f"host {host.name_label} ({host.uuid}): {error.detail}"
            raise HostUnreachable(named) from error

    # SRs

    def sr(self, ref: str) -> SrRecord:
        """One SR."""
        return SrRecord(**self._one("sr", "ref", ref))

    def sr_by_uuid(self, uuid: str) -> SrRecord:
        """One SR."""
        return SrRecord(**self._one("sr", "uuid", uuid))

    def srs(self) -> list[SrRecord]:
        """All SRs."""
        return [SrRecord(**fields) for fields in self._all("sr")]

    def sr_master(self, sr: SrRecord) -> str:
        """The host that made the record of a shared SR; every host of another."""
        return sr.master if sr.shared else self.this_host().ref

    def pbds(self, sr_ref: str) -> list[PbdRecord]:
        """How each host reaches an SR."""
        return [PbdRecord(**fields) for fields in self._all("pbd", "sr", sr_ref)]

    def set_sr_sizes(
        self, ref: str, *, virtual_allocation: int, physical_size: int, physical_utilisation: int
    ) -> None:
        """Set the sizes of an SR, in bytes, all in one transaction; no write when none differs."""
        wanted = {
            "virtual_allocation": virtual_allocation,
            "physical_size": physical_size,
            "physical_utilisation": physical_utilisation,
        }
        present = self._one("sr", "ref", ref)
        if any(present[name] != value for name, value in wanted.items()):
            self._update("sr", ref, wanted)

    def introduce_sr(
        self,
        *,
        uuid: str,
        sr_type: str,
        name_label: str = "",
        name_description: str = "",
        shared: bool = False,
        sm_config: Mapping[str, str] | None = None,
    ) -> str:
        """Add the record of an SR."""
        ref = _new_ref()
        fields: dict[str, Value] = {
            "ref": ref,
            "uuid": uuid,
            "name_label": name_label,
            "name_description": name_description,
            "type": sr_type,
            "shared": shared,
            "master": self.this_host().ref if shared else "",
        }
        with self._adding(f"SR {uuid}") as transaction:
            rows.insert(transaction, "sr", fields)
            rows.insert_map(transaction, "sr_sm_config", ref, sm_config or {})
        return ref

    def rename_sr(self, ref: str, *, name_label: str, name_description: str) -> None:
        """Change the name of an SR."""
        self._update("sr", ref, {"name_label": name_label, "name_description": name_description})

    def forget_sr(self, ref: str) -> None:
        """Remove an SR with its PBDs, VDIs and tasks, in one transaction."""
        self._delete("sr", ref)

    def create_pbd(self, sr_ref: str, host_ref: str, device_config: Mapping[str, str]) -> str:
        """Say how a host reaches an SR."""
        ref = _new_ref()
        fields = {"ref": ref, "uuid": str(uuids.uuid4()), "host": host_ref, "sr": sr_ref}
        with self._adding(f"PBD of SR {sr_ref} and host {host_ref}") as transaction:
            rows.insert(transaction, "pbd", fields)
            rows.insert_map(transaction, "pbd_device_config", ref, device_config)
        return ref

    def set_pbd_attached(self, ref: str, attached: bool) -> None:
        """Say whether the host has the SR attached."""
        self._update("pbd", ref, {"currently_attached": attached})

    def delete_pbd(self, ref: str) -> None:
        """Remove a PBD that is not attached."""
        with self._database.writing() as transaction:
            query = "DELETE FROM pbd WHERE ref = ? AND currently_attached = 0"
            if transaction.execute(query, (ref,)).rowcount == 0:
                rows.require(transaction, "pbd", ref)
                raise SrInUse(f"PBD {ref} is attached; detach the SR first")

    # VDIs

    def vdi(self, ref: str) -> VdiRecord:
        """One VDI."""
        return VdiRecord(**self._one("vdi", "ref", ref))

    def vdi_by_uuid(self, uuid: str) -> VdiRecord:
        """One VDI."""
        return VdiRecord(**self._one("vdi", "uuid", uuid))

    def vdis(self, sr_ref: str) -> list[VdiRecord]:
        """All VDIs of an SR, with one query for the records and one for each map."""
        return [VdiRecord(**fields) for fields in self._all("vdi", "sr", sr_ref)]

    def introduce_vdi(self, new: NewVdi) -> str:
        """Add the record of a VDI."""
        ref = _new_ref()
        fields = asdict(new)
        maps = {name: fields.pop(name) for name in ("sm_config", "other_config", "xenstore_data")}
        fields["location"] = new.location or new.uuid
        fields["snapshot_time"] = canonical_time(new.snapshot_time)
        with self._adding(f"VDI {new.uuid} in SR {new.sr}") as transaction:
            rows.insert(transaction, "vdi", {"ref": ref, **fields})
            for name, entries in maps.items():
                rows.insert_map(transaction, f"vdi_{name}", ref, entries)
        return ref

    def forget_vdi(self, ref: str) -> None:
        """Remove the record of a VDI."""
        self._delete("vdi", ref)

    # Tasks

    def create_task(self, name: str, sr_ref: str) -> str:
        """Add a task about an SR."""
        ref = _new_ref()
        fields = {"ref": ref, "uuid": str(uuids.uuid4()), "name_label": name, "sr": sr_ref}
        with self._adding(f"task {name!r} of SR {sr_ref}") as transaction:
            rows.insert(transaction, "task", fields)
        return ref

    def tasks(self, sr_ref: str) -> list[TaskRecord]:
        """The tasks about an SR."""
        found = self._all("task", "sr", sr_ref)
        return [TaskRecord(**fields | {"status": TaskStatus(fields["status"])}) for fields in found]

    def set_task_progress(self, ref: str, progress: float) -> None:
        """Say how far a task is, from 0 to 1."""
        self._update("task", ref, {"progress": progress})

    def finish_task(self, ref: str, status: TaskStatus) -> None:
        """Say how a task ended."""
        self._update("task", ref, {"status": status.value})

    def destroy_task(self, ref: str) -> None:
        """Remove the record of a task, if there is one."""
        with self._database.writing() as transaction:
            transaction.execute("DELETE FROM task WHERE ref = ?", (ref,))

    # Primitives

    def _add(self, config_map: ConfigMap, ref: str, key: str, value: str) -> None:
        """One INSERT: the primary key lets one process in, the others get `DuplicateKey`."""
        owner, name = config_map.value
        table = owner.lower()
        try:
            with self._database.writing() as transaction:
                rows.insert_map(transaction, f"{table}_{name}", ref, {key: value})
        except OwnerMissing as error:
            raise rows.missing(table, ref) from error
        except NotUnique as error:
            raise DuplicateKey(f"{owner} {ref} has {key!r} in {name} already") from error

    def _remove(self, config_map: ConfigMap, ref: str, key: str) -> None:
        owner, name = config_map.value
        with self._database.writing() as transaction:
            rows.remove_key(transaction, owner.lower(), name, ref, key)

    def _set_vdi_fields(self, ref: str, changes: Mapping[str, FieldValue]) -> None:
        """All in one transaction."""
        self._update("vdi", ref, changes)

    # Transactions

    def _one(self, table: str, column: str, value: str) -> dict[str, Any]:
        found = self._all(table, column, value)
        if not found:
            raise rows.missing(table, value)
        return found[0]

    def _all(self, table: str, column: str | None = None, value: str = "") -> list[dict[str, Any]]:
        with self._database.reading() as transaction:
            return rows.select(transaction, table, column, value)

    def _update(self, table: str, ref: str, fields: Mapping[str, Value]) -> None:
        with self._database.writing() as transaction:
            rows.update(transaction, table, ref, fields)

    def _delete(self, table: str, ref: str) -> None:
        with self._database.writing() as transaction:
            rows.delete(transaction, table, ref)

    @contextmanager
    def _adding(self, what: str) -> Iterator[Transaction]:
        try:
            with self._database.writing() as transaction:
                yield transaction
        except OwnerMissing as error:
            raise RecordMissing(f"what the new {what} belongs to is not there") from error
        except NotUnique as error:
            raise RecordExists(f"{what} is there already") from error


def _new_ref() -> str:
    return f"OpaqueRef:{uuids.uuid4()}"
