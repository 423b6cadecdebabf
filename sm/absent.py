"""An SR that is attached here, and whose storage may have gone away since.

What ends a use of it destroys nothing on it, so the storage is no witness for that: a process is
ended, a host key taken away and an SR detached whether it is there or not.
"""

from __future__ import annotations

from sm import process
from sm.attachment import Attachments
from sm.config import Settings
from sm.cowutil.registry import Formats
from sm.errors import SrUnavailable
from sm.journal import Journal
from sm.locks import Locks
from sm.pool.base import Pool
from sm.repository import Repository
from sm.volumes.registry import open_store


def open_anyhow(sr_uuid: str, settings: Settings, pool: Pool) -> Repository:
    """An SR to be let go of; raises `SrUnavailable` when it is not attached here.

    What of it needs the storage may raise `SrUnavailable` and OSError.
    """
    try:
        return Repository.open(sr_uuid, settings, pool)
    except SrUnavailable:
        attachment = Attachments(settings.run / "attached").require(sr_uuid)
    formats = Formats(process.run)
    store = open_store(attachment.store, attachment.place, formats, settings)
    return Repository(
        sr_uuid,
        settings,
        pool,
        formats,
        store,
        Journal(store, settings.host_uuid),
        Locks(settings.locks, settings.host_uuid, settings.lock_seconds),
    )
