"""The pool database that the settings name."""

from __future__ import annotations

from sm.config import Settings
from sm.pool.base import Pool


def open_pool(settings: Settings, session_ref: str | None) -> Pool:
    """The pool, seen from this host; `session_ref` is the session that XAPI gave, if it did."""
    if settings.pool_kind == "xapi":
        # XenAPI takes 45 ms to import, and is not needed where there is no XAPI.
        from sm.pool.xapi.pool import open_session  # noqa: PLC0415

        return open_session(settings.xapi_socket, settings.xapi_inventory, session_ref)
    from sm.pool.embedded.pool import EmbeddedPool  # noqa: PLC0415 - only the kind in use

    return EmbeddedPool(settings.pool_database, settings.host_uuid, settings.host_name)
