"""Chooses the database of an embedded pool by where it is."""

from __future__ import annotations

from pathlib import Path

from sm.pool.embedded.database import Database
from sm.pool.errors import PoolUnreachable


def database_at(place: Path | str) -> Database:
    """The SQLite file with this path, or the PostgreSQL database with this URL.

    Raises `PoolUnreachable` when the package for PostgreSQL, an optional one, is not there.
    """
    # Each is imported only when chosen: psycopg alone costs more than the rest of a short command.
    if isinstance(place, Path):
        from sm.pool.embedded.sqlite import SqliteDatabase  # noqa: PLC0415

        return SqliteDatabase(place)
    try:
        from sm.pool.embedded.postgresql import PostgresqlDatabase  # noqa: PLC0415
    except ImportError as error:
        raise PoolUnreachable(
            "pool_database is the URL of a PostgreSQL database, for which the package psycopg is "
            f"needed: pip install 'sm[postgres]' ({error})"
        ) from error
    return PostgresqlDatabase(place)
