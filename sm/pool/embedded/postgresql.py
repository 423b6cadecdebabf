"""A pool database on a PostgreSQL server, for hosts that do not share a machine.

Keys are added by the primary key, as in SQLite, and everything is read from one primary: what one
host has committed, every read that begins afterwards sees, on every host. A standby may lag behind,
so it is refused.

Nothing waits for ever: the server ends a statement, a wait for a lock and a transaction that its
client has left open after `STATEMENT_SECONDS`, and we give up on a server that says nothing
`GRACE_SECONDS` later. By then it has carried out what it got, or never will.
"""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, TypeVar

import psycopg
from psycopg import errors
from psycopg.abc import PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus as _Status
from psycopg.rows import DictRow, dict_row

from sm.errors import InvalidArgument, PoolError
from sm.pool.embedded.database import (
    Database,
    NotUnique,
    OwnerMissing,
    RuleBroken,
    Transaction,
    Value,
)
from sm.pool.embedded.schema import APPLICATION_ID, LATEST, MIGRATIONS, for_postgresql
from sm.pool.errors import PoolBusy, PoolOutcomeUnknown, PoolUnreachable, UnstorableText

CONNECT_SECONDS = 5
"""Longest wait for a connection, for each address that the URL names."""

STATEMENT_SECONDS = 30
"""After which the server gives up a statement, a wait for a lock, or a silent client."""

GRACE_SECONDS = 5
"""How much later we give up the server."""

SCHEMA = "sm"
MARK = "pool database of sm"
"""The comment on the schema, which says that it is ours."""

_RULES: dict[type[psycopg.Error], type[RuleBroken]] = {
    errors.UniqueViolation: NotUnique,
    errors.ForeignKeyViolation: OwnerMissing,
}
_BUSY = (errors.LockNotAvailable, errors.QueryCanceled, errors.DeadlockDetected)
_UNUSABLE = (errors.InsufficientPrivilege, errors.ReadOnlySqlTransaction)

# The limit of a statement is that of its waits for locks, too. synchronous_commit is left as it is
# where it waits for the disk, or for more.
_PREPARE = """
    SELECT pg_is_in_recovery() AS standby,
        current_setting('fsync') AS fsync,
        current_setting('server_encoding') AS encoding,
        set_config('search_path', %s, false),
        set_config('statement_timeout', %s, false),
        set_config('idle_in_transaction_session_timeout', %s, false),
        set_config('synchronous_commit', CASE current_setting('synchronous_commit')
            WHEN 'off' THEN 'on' ELSE current_setting('synchronous_commit') END, false)
"""

T = TypeVar("T")


class _Connection(psycopg.Connection[DictRow]):
    """A connection whose every wait for the server ends."""

    def wait(self, gen: PQGen[T], *arguments: Any, **options: Any) -> T:
        return super().wait(_limited(gen), *arguments, **options)


class _Transaction:
    """A transaction with marks and values as `Transaction` has them."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Value] = (), /) -> psycopg.Cursor[DictRow]:
        """Carry out a statement."""
        query = statement.replace("?", "%s").encode()
        return self._connection.execute(query, [_plain(value) for value in values])


class PostgresqlDatabase(Database):
    """One database on a server. Its tables are in a schema of their own, `sm`."""

    def __init__(self, url: str) -> None:
        super().__init__()
        try:
            known = conninfo_to_dict(url)
        except psycopg.Error:
            # Its words may quote the password.
            raise InvalidArgument("pool_database is no URL that PostgreSQL understands") from None
        self._url = url
        self._name = f"PostgreSQL database {known.get('dbname', '')} at {known.get('host', '')}"
        self._connection: _Connection | None = None

    def close(self) -> None:
        """Close the connection; the server ends what was under way."""
        with self._turn:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    @contextmanager
    def reading(self) -> Iterator[Transaction]:
        """All queries inside see the moment of the first one."""
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY"
        with self._transaction(begin) as connection:
            yield _Transaction(connection)
            connection.execute("COMMIT")

    @contextmanager
    def writing(self) -> Iterator[Transaction]:
        """Each statement sees all that is committed; rows that it changes stay locked."""
        begin = "BEGIN ISOLATION LEVEL READ COMMITTED, READ WRITE"
        with self._transaction(begin) as connection:
            yield _Transaction(connection)
            self._commit(connection)

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[_Connection]:
        """A transaction that whoever uses it ends; rolled back by an exception."""
        with self._turn, self._errors():
            connection = self._begun(begin)
            try:
                yield connection
            except BaseException:
                self._roll_back(connection)
                raise

    def _begun(self, begin: str) -> _Connection:
        """A connection with a transaction on it."""
        known = self._connection
        if known is not None and known.info.transaction_status is _Status.IDLE:
            try:
                known.execute(begin)
            except psycopg.Error as error:
                if not _is_lost(error):
                    raise
                # Lost since it was last used, when the server was restarted, say. Nothing was
                # asked of it yet, so another one will do.
            else:
                return known
        self.close()
        self._connection = self._connect()
        self._connection.execute(begin)
        return self._connection

    def _roll_back(self, connection: _Connection) -> None:
        """End a transaction that failed; the server does it where we cannot ask it to."""
        status = connection.info.transaction_status
        if status in (_Status.INTRANS, _Status.INERROR):
            try:
                connection.execute("ROLLBACK")
            except psycopg.Error:
                self.close()
        elif status is not _Status.IDLE:
            self.close()

    def _commit(self, connection: _Connection) -> None:
        """Commit. A server that is lost meanwhile may have done it, or not."""
        warnings: list[str] = []

        def heed(notice: errors.Diagnostic) -> None:
            warnings.append(f"{notice.message_primary} ({notice.message_detail})")

        connection.add_notice_handler(heed)
        try:
            said = connection.execute("COMMIT").statusmessage
        except psycopg.Error as error:
            if not _is_lost(error):
                raise
            raise PoolOutcomeUnknown(
                f"{self._name} was lost while it committed a change, which may be done or not: "
                f"{error}"
            ) from error
        finally:
            connection.remove_notice_handler(heed)
        if said != "COMMIT":
            raise PoolError(f"{self._name} has rolled back what was to be committed")
        if warnings:
            # It waited for a standby, and was told not to: done here, and perhaps not there.
            raise PoolOutcomeUnknown(
                f"{self._name} has committed a change, and may lose it: {'; '.join(warnings)}"
            )

    # Connecting

    def _connect(self) -> _Connection:
        connection = _Connection.connect(
            self._url,
            autocommit=True,
            # A statement that is prepared breaks when another process upgrades the tables.
            prepare_threshold=None,
            row_factory=dict_row,
            connect_timeout=CONNECT_SECONDS,
            client_encoding="utf8",
            application_name="sm",
        )
        try:
            self._prepare(connection)
            if self._version(connection) != LATEST:
                self._upgrade(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _prepare(self, connection: _Connection) -> None:
        """Set deadlines, and refuse a server that cannot keep what we are promised."""
        limit = f"{STATEMENT_SECONDS * 1000}ms"
        found = connection.execute(_PREPARE, (SCHEMA, limit, limit)).fetchone()
        if found is None:
            raise PoolError(f"{self._name} does not tell its settings")
        if found["standby"]:
            raise PoolUnreachable(
                f"{self._name} is a standby, which may lag behind; name the primary in "
                "pool_database (target_session_attrs=read-write finds it among several hosts)"
            )
        if found["fsync"] != "on":
            raise PoolUnreachable(f"{self._name} runs with fsync off and may lose what it keeps")
        if found["encoding"] != "UTF8":
            raise PoolUnreachable(f"{self._name} keeps {found['encoding']}, not UTF8")

    def _version(self, connection: _Connection) -> int:
        """The version of the tables; 0 when there are none."""
        found = connection.execute(
            "SELECT obj_description(oid, 'pg_namespace') AS mark FROM pg_namespace"
            " WHERE nspname = %s",
            (SCHEMA,),
        ).fetchone()
        if found is None:
            return 0
        if found["mark"] != MARK:
            raise PoolUnreachable(
                f"{self._name} has a schema {SCHEMA} of another program; set pool_database"
            )
        latest = connection.execute("SELECT max(version) AS version FROM migration").fetchone()
        version = int(latest["version"]) if latest else 0
        if version > LATEST:
            raise PoolUnreachable(
                f"{self._name} has version {version}, this program knows {LATEST}; upgrade sm"
            )
        return version

    def _upgrade(self, connection: _Connection) -> None:
        """Bring the tables up to date in one transaction, one process at a time."""
        connection.isolation_level = psycopg.IsolationLevel.READ_COMMITTED
        with connection.transaction():
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (APPLICATION_ID,))
            present = self._version(connection)
            if present == 0:
                connection.execute(f"CREATE SCHEMA {SCHEMA}")
                connection.execute(f"COMMENT ON SCHEMA {SCHEMA} IS '{MARK}'")
            for number in range(present + 1, LATEST + 1):
                for statement in MIGRATIONS[number - 1]:
                    for translated in for_postgresql(statement):
                        connection.execute(translated.encode())
                now = datetime.now(UTC).isoformat(timespec="seconds")
                connection.execute("INSERT INTO migration VALUES (%s, %s)", (number, now))

    # Errors

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except UnicodeEncodeError as error:
            raise UnstorableText(f"{error.object!r} cannot be stored") from error
        except psycopg.Error as error:
            raise self._meaning(error) from error

    def _meaning(self, error: psycopg.Error) -> PoolError:
        said = f"{self._name}: {error}"
        if isinstance(error, errors.IntegrityError):
            return _RULES.get(type(error), RuleBroken)(said)
        if isinstance(error, _BUSY):
            return PoolBusy(said)
        if isinstance(error, _UNUSABLE):
            return PoolUnreachable(f"{said}; its owner must be the role that pool_database names")
        if _is_lost(error):
            # Before the end of a transaction, so nothing is changed.
            return PoolUnreachable(said)
        return PoolError(said)


def _limited(waiting: PQGen[T]) -> Generator[Any, Any, T]:
    """`waiting`, which talks to the server, until it has said nothing for too long.

    psycopg sends a false value whenever nothing has come for a tenth of a second.
    """
    deadline = time.monotonic() + STATEMENT_SECONDS + GRACE_SECONDS
    try:
        wanted = next(waiting)
        while True:
            ready = yield wanted
            if not ready and time.monotonic() > deadline:
                raise psycopg.OperationalError("the server does not answer")
            wanted = waiting.send(ready)
    except StopIteration as end:
        done: T = end.value
        return done


def _is_lost(error: psycopg.Error) -> bool:
    """Whether the connection is gone, and not only a statement refused."""
    severity = error.diag.severity_nonlocalized
    if severity is None:  # psycopg's own, not the server's
        return isinstance(error, psycopg.OperationalError)
    return severity in ("FATAL", "PANIC")


def _plain(value: Value) -> Value:
    """`value` as the tables hold it, in which truth is a number."""
    if isinstance(value, str) and "\0" in value:
        raise UnstorableText(f"{value!r} cannot be stored")
    return int(value) if isinstance(value, bool) else value
