"""The tables of the embedded pool database, and how it grows from version to version.

A map (sm-config, other-config, device-config) is rows of (owner, map, key, value); its primary key
makes adding a key atomic.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from pathlib import Path

from sm.errors import PoolError

MIGRATIONS: Sequence[str] = (
    """
    CREATE TABLE host (
        ref TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, name_label TEXT NOT NULL
    ) WITHOUT ROWID;
    CREATE TABLE sr (
        ref TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE, type TEXT NOT NULL,
        name_label TEXT NOT NULL, name_description TEXT NOT NULL, shared INTEGER NOT NULL DEFAULT 0,
        virtual_allocation INTEGER NOT NULL DEFAULT 0, physical_size INTEGER NOT NULL DEFAULT 0,
        physical_utilisation INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE TABLE pbd (
        ref TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE,
        host TEXT NOT NULL REFERENCES host ON DELETE CASCADE,
        sr TEXT NOT NULL REFERENCES sr ON DELETE CASCADE,
        currently_attached INTEGER NOT NULL DEFAULT 0,
        UNIQUE (host, sr)
    ) WITHOUT ROWID;
    CREATE TABLE vdi (
        ref TEXT PRIMARY KEY, uuid TEXT NOT NULL UNIQUE,
        sr TEXT NOT NULL REFERENCES sr ON DELETE CASCADE,
        location TEXT NOT NULL, name_label TEXT NOT NULL, name_description TEXT NOT NULL,
        type TEXT NOT NULL, read_only INTEGER NOT NULL, managed INTEGER NOT NULL,
        virtual_size INTEGER NOT NULL, physical_utilisation INTEGER NOT NULL,
        is_a_snapshot INTEGER NOT NULL, snapshot_of TEXT NOT NULL, snapshot_time TEXT NOT NULL,
        metadata_of_pool TEXT NOT NULL, on_boot TEXT NOT NULL DEFAULT 'persist',
        allow_caching INTEGER NOT NULL DEFAULT 0, cbt_enabled INTEGER NOT NULL DEFAULT 0
    ) WITHOUT ROWID;
    CREATE INDEX vdi_by_sr ON vdi (sr);
    CREATE TABLE map_entry (
        owner TEXT NOT NULL, map TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
        PRIMARY KEY (owner, map, key)
    ) WITHOUT ROWID;
    CREATE TABLE task (
        ref TEXT PRIMARY KEY, name TEXT NOT NULL, description TEXT NOT NULL,
        progress REAL NOT NULL DEFAULT 0, status TEXT NOT NULL DEFAULT 'pending',
        error TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID;
    CREATE TRIGGER sr_maps AFTER DELETE ON sr BEGIN
        DELETE FROM map_entry WHERE owner = old.ref;
    END;
    CREATE TRIGGER pbd_maps AFTER DELETE ON pbd BEGIN
        DELETE FROM map_entry WHERE owner = old.ref;
    END;
    CREATE TRIGGER vdi_maps AFTER DELETE ON vdi BEGIN
        DELETE FROM map_entry WHERE owner = old.ref;
    END;
    """,
)
"""Each brings the database from the version of its index to the next, kept in `user_version`."""

BUSY_SECONDS = 30.0


def connect(path: Path) -> sqlite3.Connection:
    """Open the database, made or brought up to date where necessary.

    Raises `PoolError` when the file is no database of ours, or of a newer version.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(path, timeout=BUSY_SECONDS, isolation_level=None)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        version = _version(connection)
        if version < len(MIGRATIONS):
            connection.execute("PRAGMA journal_mode = WAL")
            _migrate(connection)
    except (sqlite3.Error, OSError) as error:
        raise PoolError(f"{path}: {error}") from error
    if version > len(MIGRATIONS):
        raise PoolError(f"{path} was written by a newer version of sm; use that version")
    return connection


def _version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def _migrate(connection: sqlite3.Connection) -> None:
    """Take the missing steps, each whole or not at all; another process may be doing the same."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _version(connection)
        for number, script in enumerate(MIGRATIONS[version:], start=version + 1):
            for statement in _statements(script):
                connection.execute(statement)
            connection.execute(f"PRAGMA user_version = {number}")
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    """Cut a script at the ends of its statements; a trigger's body has semicolons of its own."""
    found: list[str] = []
    pending = ""
    for line in script.splitlines(keepends=True):
        pending += line
        if sqlite3.complete_statement(pending):
            found.append(pending)
            pending = ""
    return found
