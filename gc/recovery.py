"""After a crash: every journal entry of the collector is finished or given up."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sm.cowutil.errors import ImageBusy
from sm.errors import SmError
from sm.gc import coalesce, leaf, switching
from sm.journal import Entry
from sm.repository import Repository

log = logging.getLogger(__name__)

_RECOVER: Mapping[str, Callable[[Repository, Entry], None]] = {
    coalesce.OPERATION: coalesce.recover,
    leaf.OPERATION: leaf.recover,
    switching.OPERATION: switching.recover,
}


def recover(repository: Repository) -> None:
    """Settle every entry; the caller is the only collector, so the writer of each has ended.

    An entry about an image that somebody writes to (who mends it by hand, or serves it) is left to
    a later run; until then it keeps everybody else from its images.
    """
    for entry in repository.journal.entries():
        settle = _RECOVER.get(entry.operation)
        if settle is not None:
            log.warning("recover %s of %s from stage %s", entry.operation, entry.key, entry.stage)
            try:
                settle(repository, repository.journal.adopt(entry))
            except (SmError, ImageBusy) as error:
                # The entry stays and holds its images; the next run tries again.
                log.warning("%s of %s must wait: %s", entry.operation, entry.key, error)
    repository.store.remove_unfinished()
