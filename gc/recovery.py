"""After a crash, or a failure in the middle: a journal entry of the collector is settled."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping

from sm.gc.leaf_in_use import switching
from sm.gc.merges import coalesce, leaf, pull
from sm.journal import Entry
from sm.repository import Repository

log = logging.getLogger(__name__)

_RECOVER: Mapping[str, Callable[[Repository, Entry], None]] = {
    coalesce.OPERATION: coalesce.recover,
    leaf.OPERATION: leaf.recover,
    pull.OPERATION: pull.recover,
    switching.OPERATION: switching.recover,
}


def unsettled(repository: Repository) -> list[Entry]:
    """The entries of collectors, in the order of their names; those of jobs under way as well."""
    return [entry for entry in repository.journal.entries() if entry.operation in _RECOVER]


def settle(repository: Repository, entry: Entry) -> None:
    """Finish an entry or give it up; the caller is the only collector, and has no job at it.

    Raises with the entry left in place, to hold its images until a later attempt: `ImageBusy` where
    somebody writes to an image (who mends it by hand, or serves it), `SmError` where a host that
    uses them does not answer.
    """
    log.warning("recover %s of %s from stage %s", entry.operation, entry.key, entry.stage)
    _RECOVER[entry.operation](repository, repository.journal.adopt(entry))
