"""A pool database in an SQLite file: opening it, its transactions, and what its errors mean.

Safe with many processes: readers never wait, writers take turns. A write is one immediate
transaction, synced before it returns, so a crash leaves it done or not begun; whoever is killed in
the middle loses the lock with its life. The file must lie on a local file system, because the
write-ahead log is shared through memory.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from sm.errors import PoolError
from sm.pool.embedded.database import Database, NotUnique, OwnerMissing, RuleBroken
from sm.pool.embedded.schema import APPLICATION_ID, LATEST, MIGRATIONS
from sm.pool.errors import PoolBusy, PoolUnreachable, UnstorableText

BUSY_SECONDS = 30.0
"""Longest wait for other writers; each holds the database for milliseconds."""

UPGRADE_POLL_SECONDS = 0.01

_RULES = {
    "SQLITE_CONSTRAINT_PRIMARYKEY": NotUnique,
    "SQLITE_CONSTRAINT_UNIQUE": NotUnique,
    "SQLITE_CONSTRAINT_FOREIGNKEY": OwnerMissing,
}


class SqliteDatabase(Database):
    """One file, on this machine."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self._connection: sqlite3.Connection | None = None

    def close(self) -> None:
        """Close the connection, if there is one."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All queries inside see the same moment. Never waits for a writer, never writes."""
        with self._transaction("BEGIN") as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sqlite3.Connection]:
        """A transaction that is committed at the end, or rolled back by an exception."""
        with self._transaction("BEGIN IMMEDIATE") as connection:
            yield connection

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._turn, self._errors():
            if self._connection is None:
                self._connection = self._connect()
            connection = self._connection
            connection.execute(begin)
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                # Some errors, a full disk for one, have rolled back already.
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    def _connect(self) -> sqlite3.Connection:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # For its owner alone: device-config can hold passwords. Made without opening it, because
        # closing a file drops all locks that this process has on it, SQLite's own as well.
        with suppress(FileExistsError):
            os.mknod(self.path, stat.S_IFREG | 0o600)
        connection = sqlite3.connect(
            self.path, timeout=BUSY_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            connection.row_factory = sqlite3.Row
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute("PRAGMA synchronous = FULL")
            if self._version(connection) != LATEST:
                self._upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _version(self, connection: sqlite3.Connection) -> int:
        """The version of the tables; 0 of an empty file."""
        application, tables = connection.execute(
            "SELECT application_id, (SELECT count(*) FROM sqlite_master) FROM pragma_application_id"
        ).fetchone()
        if tables == 0:
            return 0
        if application != APPLICATION_ID:
            raise PoolUnreachable(
                f"{self.path} is an SQLite file of another program; set pool_database"
            )
        version = int(connection.execute("SELECT max(version) FROM migration").fetchone()[0])
        if version > LATEST:
            raise PoolUnreachable(
                f"{self.path} has version {version}, this program knows {LATEST}; upgrade sm"
            )
        return version

    def _upgrade(self, connection: sqlite3.Connection) -> None:
        """Bring the tables up to date, each step in one transaction; a later run continues."""
        with self._upgrading():
            mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
            if mode != "wal":
                raise PoolUnreachable(f"{self.path} must lie on a local file system")
            for number in range(self._version(connection) + 1, LATEST + 1):
                connection.execute("BEGIN IMMEDIATE")
                for statement in MIGRATIONS[number - 1]:
                    connection.execute(statement)
                now = datetime.now(UTC).isoformat(timespec="seconds")
                connection.execute("INSERT INTO migration VALUES (?, ?)", (number, now))
                connection.execute("COMMIT")

    @contextmanager
    def _upgrading(self) -> Iterator[None]:
        """One process at a time, by a lock file: the WAL mode cannot be set in a transaction."""
        deadline = time.monotonic() + BUSY_SECONDS
        with self.path.with_name(f"{self.path.name}.upgrade").open("w") as guard:
            while True:
                try:
                    fcntl.flock(guard, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError as error:
                    if time.monotonic() > deadline:
                        raise PoolBusy(f"{self.path} is being upgraded") from error
                    time.sleep(UPGRADE_POLL_SECONDS)
            yield

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise UnstorableText(f"{error.object!r} cannot be stored") from error
        except OSError as error:
            raise PoolUnreachable(f"{self.path}: {error.strerror}") from error
        except sqlite3.IntegrityError as error:
            kind = _RULES.get(error.sqlite_errorname, RuleBroken)
            raise kind(f"{self.path}: {error}") from error
        except sqlite3.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: sqlite3.Error) -> PoolError:
        # Extended codes keep the primary one in their lowest byte; errors of the Python module
        # itself have none.
        primary = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
        said = f"{self.path}: {error} ({getattr(error, 'sqlite_errorname', type(error).__name__)})"
        if primary in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
            return PoolBusy(f"{said}; other processes kept it for {BUSY_SECONDS:.0f} s")
        if primary in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
            return PoolUnreachable(
                f"{said}; it is damaged: move it away, introduce the SRs again and scan them, "
                "which rebuilds the records of all disks from their images"
            )
        if primary in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
            return PoolUnreachable(said)
        return PoolError(said)
