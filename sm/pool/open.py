"""Opens the pool database that this host is set up to use."""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from sm.config import Credentials
from sm.errors import InvalidArgument
from sm.pool.base import Pool


class PoolSettings(Protocol):
    """Where the pool database is, and who we are to it."""

    @property
    def pool_kind(self) -> str:
        """Which database: `embedded` or `xapi`."""

    @property
    def pool_database(self) -> Path | str:
        """The file of the embedded database (SQLite), or its URL (PostgreSQL)."""

    @property
    def host_uuid(self) -> str:
        """The UUID of this host in the embedded database."""

    @property
    def host_name(self) -> str:
        """Its name there."""

    @property
    def credentials(self) -> Credentials | None:
        """What it shows other hosts over TLS."""

    @property
    def xapi_socket(self) -> Path:
        """The Unix socket of XAPI."""

    @property
    def xapi_inventory(self) -> Path:
        """The file that says which host this is to XAPI."""


def open_pool(settings: PoolSettings, session_ref: str | None) -> Pool:
    """The pool database; nothing is connected to before its first use.

    `session_ref` is the session of the request being served, which stays open; without one, a
    session of our own is opened where the database needs any, and ended by `Pool.close`.
    """
    # Each is imported only when chosen: XenAPI alone costs more than the rest of a short command.
    if settings.pool_kind == "embedded":
        from sm.pool.embedded import EmbeddedPool  # noqa: PLC0415

        return EmbeddedPool(
            settings.pool_database, settings.host_uuid, settings.host_name, settings.credentials
        )
    if settings.pool_kind == "xapi":
        from sm.pool.xapi import XapiPool  # noqa: PLC0415

        return XapiPool(settings.xapi_socket, settings.xapi_inventory, session_ref or None)
    raise InvalidArgument(f"the pool kind {settings.pool_kind!r} is neither embedded nor xapi")
