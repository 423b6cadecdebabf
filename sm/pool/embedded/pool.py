"""Records in SQLite. Many processes may use one file at once."""

from __future__ import annotations

import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

from sm.errors import DuplicateKey, PoolError, RecordMissing
from sm.pool.base import (
    FieldValue,
    HostRecord,
    NewVdi,
    PbdRecord,
    PoolAdmin,
    SrRecord,
    VdiRecord,
)
from sm.pool.embedded.schema import connect

VDI_FIELDS = frozenset(
    {
        "name_label",
        "name_description",
        "type",
        "read_only",
        "managed",
        "virtual_size",
        "physical_utilisation",
        "is_a_snapshot",
        "snapshot_of",
        "snapshot_time",
        "metadata_of_pool",
        "on_boot",
        "allow_caching",
        "cbt_enabled",
    }
)
_BOOLEANS = frozenset(
    {
        "shared",
        "currently_attached",
        "read_only",
        "managed",
        "is_a_snapshot",
        "allow_caching",
        "cbt_enabled",
    }
)

Maps = dict[tuple[str, str], dict[str, str]]
"""The entries of maps, by (owner, name of the map)."""


class EmbeddedPool(PoolAdmin):
    """The database at `path`, seen from one host. The file is opened when first needed."""

    def __init__(self, path: Path, host_uuid: str, host_name: str) -> None:
        self._path = path
        self._host_uuid = host_uuid
        self._host_name = host_name

    @cached_property
    def _database(self) -> sqlite3.Connection:
        return connect(self._path)

    # Hosts

    def this_host(self) -> HostRecord:
        """The record of this host, added when it is not there."""
        rows = self._rows("SELECT * FROM host WHERE uuid = ?", self._host_uuid)
        if not rows:
            self._write(
                "INSERT OR IGNORE INTO host VALUES (?, ?, ?)",
                _new_ref(),
                self._host_uuid,
                self._host_name,
            )
            rows = self._rows("SELECT * FROM host WHERE uuid = ?", self._host_uuid)
        return HostRecord(**rows[0])

    def hosts(self) -> list[HostRecord]:
        """All hosts, by name."""
        return [HostRecord(**row) for row in self._rows("SELECT * FROM host ORDER BY name_label")]

    # SRs and PBDs

    def srs(self) -> list[SrRecord]:
        """All SRs, by name."""
        rows = self._rows("SELECT * FROM sr ORDER BY name_label, uuid")
        maps = self._maps("SELECT e.* FROM map_entry e JOIN sr ON sr.ref = e.owner")
        return [_sr(row, maps) for row in rows]

    def sr(self, ref: str) -> SrRecord:
        """One SR."""
        return self._one_sr("ref", ref)

    def sr_by_uuid(self, uuid: str) -> SrRecord:
        """One SR by UUID."""
        return self._one_sr("uuid", uuid)

    def _one_sr(self, column: str, value: str) -> SrRecord:
        row = self._one("SR", f"SELECT * FROM sr WHERE {column} = ?", value)
        maps = self._maps("SELECT * FROM map_entry WHERE owner = ?", row["ref"])
        return _sr(row, maps)

    def pbds(self, sr: str) -> list[PbdRecord]:
        """How hosts reach an SR."""
        maps = self._maps(
            "SELECT e.* FROM map_entry e JOIN pbd ON pbd.ref = e.owner WHERE pbd.sr = ?", sr
        )
        return [
            PbdRecord(**row, device_config=maps.get((row["ref"], "device_config"), {}))
            for row in self._rows("SELECT * FROM pbd WHERE sr = ? ORDER BY uuid", sr)
        ]

    def set_sr_sizes(
        self, ref: str, *, virtual_allocation: int, physical_size: int, physical_utilisation: int
    ) -> None:
        """Set the sizes of an SR."""
        self._write(
            "UPDATE sr SET virtual_allocation = ?, physical_size = ?, physical_utilisation = ?"
            " WHERE ref = ?",
            virtual_allocation,
            physical_size,
            physical_utilisation,
            ref,
        )

    def introduce_sr(
        self, *, uuid: str, sr_type: str, name_label: str = "", name_description: str = ""
    ) -> str:
        """Add an SR."""
        ref = _new_ref()
        self._write(
            "INSERT INTO sr (ref, uuid, type, name_label, name_description) VALUES (?, ?, ?, ?, ?)",
            *(ref, uuid, sr_type, name_label, name_description),
        )
        return ref

    def forget_sr(self, ref: str) -> None:
        """Remove an SR with all that hangs on it."""
        self._write("DELETE FROM sr WHERE ref = ?", ref)

    def create_pbd(self, sr: str, host: str, device_config: Mapping[str, str]) -> str:
        """Say how a host reaches an SR."""
        ref = _new_ref()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO pbd (ref, uuid, host, sr) VALUES (?, ?, ?, ?)",
                (ref, _new_uuid(), host, sr),
            )
            _insert_map(database, ref, "device_config", device_config)
        return ref

    def set_pbd_attached(self, ref: str, attached: bool) -> None:
        """Say whether the SR is attached on that host."""
        self._write("UPDATE pbd SET currently_attached = ? WHERE ref = ?", attached, ref)

    # VDIs

    def vdis(self, sr: str) -> list[VdiRecord]:
        """All VDIs of an SR, by name."""
        rows = self._rows("SELECT * FROM vdi WHERE sr = ? ORDER BY name_label, uuid", sr)
        maps = self._maps(
            "SELECT e.* FROM map_entry e JOIN vdi ON vdi.ref = e.owner WHERE vdi.sr = ?", sr
        )
        return [_vdi(row, maps) for row in rows]

    def vdi(self, ref: str) -> VdiRecord:
        """One VDI."""
        return self._one_vdi("ref", ref)

    def vdi_by_uuid(self, uuid: str) -> VdiRecord:
        """One VDI by UUID."""
        return self._one_vdi("uuid", uuid)

    def _one_vdi(self, column: str, value: str) -> VdiRecord:
        row = self._one("VDI", f"SELECT * FROM vdi WHERE {column} = ?", value)
        maps = self._maps("SELECT * FROM map_entry WHERE owner = ?", row["ref"])
        return _vdi(row, maps)

    def introduce_vdi(self, vdi: NewVdi) -> str:
        """Add a VDI with its sm-config."""
        ref = _new_ref()
        with self._transaction() as database:
            database.execute(
                "INSERT INTO vdi (ref, uuid, sr, location, name_label, name_description, type,"
                " read_only, managed, virtual_size, physical_utilisation, is_a_snapshot,"
                " snapshot_of, snapshot_time, metadata_of_pool)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(ref, vdi.uuid, vdi.sr, vdi.uuid, vdi.name_label, vdi.name_description),
                    *(vdi.type, vdi.read_only, vdi.managed, vdi.virtual_size),
                    *(vdi.physical_utilisation, vdi.is_a_snapshot, vdi.snapshot_of),
                    *(vdi.snapshot_time, vdi.metadata_of_pool),
                ),
            )
            _insert_map(database, ref, "sm_config", vdi.sm_config)
        return ref

    def forget_vdi(self, ref: str) -> None:
        """Remove a VDI."""
        self._write("DELETE FROM vdi WHERE ref = ?", ref)

    def update_vdi(self, ref: str, **fields: FieldValue) -> None:
        """Set fields of a VDI."""
        unknown = fields.keys() - VDI_FIELDS
        if unknown:
            raise PoolError(f"a VDI has no field {', '.join(sorted(unknown))} to set")
        if fields:
            columns = ", ".join(f"{name} = ?" for name in fields)
            self._write(f"UPDATE vdi SET {columns} WHERE ref = ?", *fields.values(), ref)

    # Maps

    def add_to_sr_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key to an SR's sm-config."""
        self._add("sr", ref, "sm_config", key, value)

    def remove_from_sr_sm_config(self, ref: str, key: str) -> None:
        """Remove a key of an SR's sm-config."""
        self._remove(ref, "sm_config", key)

    def add_to_sr_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key to an SR's other-config."""
        self._add("sr", ref, "other_config", key, value)

    def remove_from_sr_other_config(self, ref: str, key: str) -> None:
        """Remove a key of an SR's other-config."""
        self._remove(ref, "other_config", key)

    def add_to_vdi_sm_config(self, ref: str, key: str, value: str) -> None:
        """Add a key to a VDI's sm-config."""
        self._add("vdi", ref, "sm_config", key, value)

    def remove_from_vdi_sm_config(self, ref: str, key: str) -> None:
        """Remove a key of a VDI's sm-config."""
        self._remove(ref, "sm_config", key)

    def add_to_vdi_other_config(self, ref: str, key: str, value: str) -> None:
        """Add a key to a VDI's other-config."""
        self._add("vdi", ref, "other_config", key, value)

    def remove_from_vdi_other_config(self, ref: str, key: str) -> None:
        """Remove a key of a VDI's other-config."""
        self._remove(ref, "other_config", key)

    def _add(self, table: str, ref: str, map_name: str, key: str, value: str) -> None:
        """Insert for an owner that exists; the primary key refuses a second one."""
        try:
            with self._transaction() as database:
                added = database.execute(
                    f"INSERT INTO map_entry SELECT ref, ?, ?, ? FROM {table} WHERE ref = ?",
                    (map_name, key, value, ref),
                )
                if added.rowcount != 1:
                    raise RecordMissing(f"no {table.upper()} {ref}")
        except sqlite3.IntegrityError as error:
            raise DuplicateKey(f"{ref}: {map_name} has the key {key} already") from error

    def _remove(self, ref: str, map_name: str, key: str) -> None:
        self._write(
            "DELETE FROM map_entry WHERE owner = ? AND map = ? AND key = ?", ref, map_name, key
        )

    # Tasks

    def create_task(self, name: str, description: str) -> str:
        """Add a task."""
        ref = _new_ref()
        self._write(
            "INSERT INTO task (ref, name, description) VALUES (?, ?, ?)", ref, name, description
        )
        return ref

    def set_task_progress(self, ref: str, progress: float) -> None:
        """Say how far a task is."""
        self._write("UPDATE task SET progress = ? WHERE ref = ?", progress, ref)

    def finish_task(self, ref: str, *, error: str = "") -> None:
        """End a task."""
        status = "failure" if error else "success"
        self._write(
            "UPDATE task SET status = ?, error = ?, progress = 1 WHERE ref = ?", status, error, ref
        )

    # SQLite

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        """Take the write lock at once: one taken later could fail against another writer."""
        database = self._database
        try:
            database.execute("BEGIN IMMEDIATE")
            try:
                yield database
            except BaseException:
                database.execute("ROLLBACK")
                raise
            database.execute("COMMIT")
        except sqlite3.IntegrityError:
            raise
        except sqlite3.Error as error:
            raise PoolError(f"{self._path}: {error}") from error

    def _write(self, statement: str, *values: Any) -> None:
        try:
            with self._transaction() as database:
                database.execute(statement, values)
        except sqlite3.IntegrityError as error:
            raise PoolError(f"{self._path}: {error}") from error

    def _rows(self, query: str, *values: Any) -> list[dict[str, Any]]:
        try:
            rows = self._database.execute(query, values).fetchall()
        except sqlite3.Error as error:
            raise PoolError(f"{self._path}: {error}") from error
        return [
            {
                name: bool(row[name]) if name in _BOOLEANS else row[name]
                for name in row.keys()  # noqa: SIM118 - a sqlite3.Row iterates over its values
            }
            for row in rows
        ]

    def _one(self, kind: str, query: str, value: str) -> dict[str, Any]:
        rows = self._rows(query, value)
        if not rows:
            raise RecordMissing(f"no {kind} {value}")
        return rows[0]

    def _maps(self, query: str, *values: Any) -> Maps:
        found: Maps = {}
        for row in self._rows(query, *values):
            found.setdefault((row["owner"], row["map"]), {})[row["key"]] = row["value"]
        return found


def _sr(row: dict[str, Any], maps: Maps) -> SrRecord:
    sm_config = maps.get((row["ref"], "sm_config"), {})
    return SrRecord(
        **row, sm_config=sm_config, other_config=maps.get((row["ref"], "other_config"), {})
    )


def _vdi(row: dict[str, Any], maps: Maps) -> VdiRecord:
    sm_config = maps.get((row["ref"], "sm_config"), {})
    return VdiRecord(
        **row, sm_config=sm_config, other_config=maps.get((row["ref"], "other_config"), {})
    )


def _insert_map(
    database: sqlite3.Connection, ref: str, name: str, entries: Mapping[str, str]
) -> None:
    rows: Iterable[tuple[str, str, str, str]] = (
        (ref, name, key, value) for key, value in entries.items()
    )
    database.executemany("INSERT INTO map_entry VALUES (?, ?, ?, ?)", rows)


def _new_uuid() -> str:
    return str(uuid.uuid4())


def _new_ref() -> str:
    return f"OpaqueRef:{_new_uuid()}"
