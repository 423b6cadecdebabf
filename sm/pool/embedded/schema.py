"""The tables of the embedded pool database, as steps from one version to the next.

References and UUIDs are text. A map is a table of (owner, key, value) whose primary key makes
adding a key atomic. A field of a record is a column of the same name.

Steps are written for SQLite, and `for_postgresql` translates them, so that what is to be the same
in both is said once.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

APPLICATION_ID = 0x534D504C
"""Marks the SQLite file as ours: "SMPL". In PostgreSQL, the number of the lock of upgrades."""


def _map_table(name: str, owner: str) -> str:
    return f"""CREATE TABLE {name} (
        owner TEXT NOT NULL REFERENCES {owner} (ref) ON DELETE CASCADE,
        key TEXT NOT NULL,
        value TEXT NOT NULL,
        PRIMARY KEY (owner, key)
    ) STRICT, WITHOUT ROWID"""


MIGRATIONS: Sequence[Sequence[str]] = (
    (
        f"PRAGMA application_id = {APPLICATION_ID}",
        """CREATE TABLE migration (
            version INTEGER PRIMARY KEY,
            applied TEXT NOT NULL
        ) STRICT""",
        """CREATE TABLE host (
            ref TEXT PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            name_label TEXT NOT NULL,
            enabled INTEGER NOT NULL DEFAULT 1
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE sr (
            ref TEXT PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            name_label TEXT NOT NULL,
            name_description TEXT NOT NULL,
            type TEXT NOT NULL,
            shared INTEGER NOT NULL,
            virtual_allocation INTEGER NOT NULL DEFAULT 0,
            physical_size INTEGER NOT NULL DEFAULT 0,
            physical_utilisation INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID""",
        """CREATE TABLE pbd (
            ref TEXT PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            host TEXT NOT NULL REFERENCES host (ref),
            sr TEXT NOT NULL REFERENCES sr (ref) ON DELETE CASCADE,
            currently_attached INTEGER NOT NULL DEFAULT 0,
            UNIQUE (sr, host)
        ) STRICT, WITHOUT ROWID""",
        # snapshot_of and metadata_of_pool may outlive what they name, hence no foreign key.
        """CREATE TABLE vdi (
            ref TEXT PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            sr TEXT NOT NULL REFERENCES sr (ref) ON DELETE CASCADE,
            name_label TEXT NOT NULL,
            name_description TEXT NOT NULL,
            type TEXT NOT NULL,
            sharable INTEGER NOT NULL,
            read_only INTEGER NOT NULL,
            managed INTEGER NOT NULL,
            location TEXT NOT NULL,
            virtual_size INTEGER NOT NULL,
            physical_utilisation INTEGER NOT NULL,
            metadata_of_pool TEXT NOT NULL,
            is_a_snapshot INTEGER NOT NULL,
            snapshot_of TEXT NOT NULL,
            snapshot_time TEXT NOT NULL,
            cbt_enabled INTEGER NOT NULL,
            missing INTEGER NOT NULL DEFAULT 0,
            on_boot TEXT NOT NULL DEFAULT 'persist',
            allow_caching INTEGER NOT NULL DEFAULT 0
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX vdi_of_sr ON vdi (sr)",
        """CREATE TABLE task (
            ref TEXT PRIMARY KEY,
            uuid TEXT NOT NULL UNIQUE,
            name_label TEXT NOT NULL,
            sr TEXT NOT NULL REFERENCES sr (ref) ON DELETE CASCADE,
            progress REAL NOT NULL DEFAULT 0,
            status TEXT NOT NULL DEFAULT 'pending'
        ) STRICT, WITHOUT ROWID""",
        "CREATE INDEX task_of_sr ON task (sr)",
        _map_table("sr_sm_config", "sr"),
        _map_table("sr_other_config", "sr"),
        _map_table("pbd_device_config", "pbd"),
        _map_table("vdi_sm_config", "vdi"),
        _map_table("vdi_other_config", "vdi"),
        _map_table("vdi_xenstore_data", "vdi"),
    ),
    (
        "ALTER TABLE host ADD COLUMN address TEXT NOT NULL DEFAULT ''",
        # The host that may change the chains of a shared SR; empty for one that is not shared.
        "ALTER TABLE sr ADD COLUMN master TEXT NOT NULL DEFAULT ''",
    ),
)
"""For each version, from 1 on, the statements that lead to it. Released ones never change."""

LATEST = len(MIGRATIONS)

_POSTGRESQL_WORDS: Sequence[tuple[str, str]] = (
    (r"\)\s*STRICT(, WITHOUT ROWID)?$", ")"),
    (r"\bINTEGER\b", "BIGINT"),
    (r"\bREAL\b", "DOUBLE PRECISION"),
    # Compared byte by byte, as in SQLite. The rules of a locale change with the server's C library,
    # and an index on keys that was sorted by other rules may let the same key in twice.
    (r"\bTEXT\b", 'TEXT COLLATE "C"'),
)


def for_postgresql(statement: str) -> Sequence[str]:
    """A statement of `MIGRATIONS` as PostgreSQL has it; none where only SQLite needs it."""
    if statement.startswith("PRAGMA "):
        return ()
    for pattern, replacement in _POSTGRESQL_WORDS:
        statement = re.sub(pattern, replacement, statement)
    return (statement,)
