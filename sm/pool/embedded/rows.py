"""Rows to record fields and back: the few statements that all records share.

Names of tables and columns that become part of a statement are always our own, never a client's.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

from sm.errors import RecordMissing
from sm.pool.embedded.database import Transaction, Value, fields_of
from sm.pool.records import VDI_FIELDS

_BOOLEANS: Mapping[str, tuple[str, ...]] = {
    "host": ("enabled",),
    "sr": ("shared",),
    "pbd": ("currently_attached",),
    "vdi": (
        "sharable",
        "allow_caching",
        *(name for name, kind in VDI_FIELDS.items() if kind is bool),
    ),
}
_MAPS: Mapping[str, tuple[str, ...]] = {
    "sr": ("sm_config", "other_config"),
    "pbd": ("device_config",),
    "vdi": ("sm_config", "other_config"),
}


def select(
    transaction: Transaction, table: str, column: str | None = None, value: str = ""
) -> list[dict[str, Any]]:
    """The fields of all records, or of those whose `column` is `value`, ordered by UUID.

    One query for the records and one for each of their maps. For one moment's view of them all,
    the caller has a transaction open.
    """
    where, values = (f" WHERE {column} = ?", (value,)) if column else ("", ())
    owners = f" WHERE owner IN (SELECT ref FROM {table}{where})" if column else ""  # noqa: S608
    maps: dict[str, dict[str, dict[str, str]]] = {}
    for name in _MAPS.get(table, ()):
        owned: dict[str, dict[str, str]] = defaultdict(dict)
        maps[name] = owned
        query = f"SELECT owner, key, value FROM {table}_{name}{owners}"  # noqa: S608
        for row in transaction.execute(query, values):
            owned[row["owner"]][row["key"]] = row["value"]
    query = f"SELECT * FROM {table}{where} ORDER BY uuid"  # noqa: S608
    found = []
    for row in transaction.execute(query, values):
        fields = fields_of(row)
        for name in _BOOLEANS.get(table, ()):
            fields[name] = bool(fields[name])
        for name, owned in maps.items():
            fields[name] = owned.get(fields["ref"], {})
        found.append(fields)
    return found


def insert(transaction: Transaction, table: str, fields: Mapping[str, Value]) -> None:
    """Add a record."""
    names, marks = ", ".join(fields), ", ".join("?" * len(fields))
    query = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608
    transaction.execute(query, tuple(fields.values()))


def insert_map(
    transaction: Transaction, table: str, owner: str, entries: Mapping[str, str]
) -> None:
    """Add entries to a map."""
    if not entries:
        return
    marks = ", ".join(["(?, ?, ?)"] * len(entries))
    query = f"INSERT INTO {table} (owner, key, value) VALUES {marks}"  # noqa: S608
    transaction.execute(query, [text for entry in entries.items() for text in (owner, *entry)])


def remove_key(transaction: Transaction, table: str, name: str, ref: str, key: str) -> None:
    """Remove an entry of a map, if it is there; `RecordMissing` without the record."""
    query = f"DELETE FROM {table}_{name} WHERE owner = ? AND key = ?"  # noqa: S608
    if transaction.execute(query, (ref, key)).rowcount == 0:
        require(transaction, table, ref)


def update(transaction: Transaction, table: str, ref: str, fields: Mapping[str, Value]) -> None:
    """Set fields of a record; raises `RecordMissing`."""
    names = ", ".join(f"{name} = ?" for name in fields)
    query = f"UPDATE {table} SET {names} WHERE ref = ?"  # noqa: S608
    if transaction.execute(query, (*fields.values(), ref)).rowcount == 0:
        raise missing(table, ref)


def delete(transaction: Transaction, table: str, ref: str) -> None:
    """Remove a record and what belongs to it; raises `RecordMissing`."""
    query = f"DELETE FROM {table} WHERE ref = ?"  # noqa: S608
    if transaction.execute(query, (ref,)).rowcount == 0:
        raise missing(table, ref)


def require(transaction: Transaction, table: str, ref: str) -> None:
    """Raise `RecordMissing` unless the record is there."""
    query = f"SELECT 1 FROM {table} WHERE ref = ?"  # noqa: S608
    if transaction.execute(query, (ref,)).fetchone() is None:
        raise missing(table, ref)


def missing(table: str, identity: str) -> RecordMissing:
    """The error for a record that is not there."""
    return RecordMissing(f"there is no {table.upper()} {identity}")
