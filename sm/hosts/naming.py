"""Giving the name of a leaf to the image below it, from the host that holds the users of the disk.

Where any host may rename volumes, it does so itself. Where only the SR master may, it asks the
master; no answer does not mean that nothing happened, or that it will not happen yet. So it then
asks a second question, `superseded`, which is answered under the lock of the SR: what is not done
by then is never done, because the master notes in the journal that the claim is spent.
"""

from __future__ import annotations

from sm.errors import Busy
from sm.hosts.answers import ask_other
from sm.journal import Entry
from sm.repository import Repository

STAGE = "leaf-active"
"""The stage of the journal entry of such a merge, until its end is known. Its data has `into`."""

SPENT = "spent"
"""Noted in that entry: its leaf must not be renamed any more."""


def supersede(repository: Repository, vdi_uuid: str) -> None:
    """Let the image that the entry of a disk names take the name and place of its leaf.

    On failure it may have taken place, or do so any moment: ask `superseded`.
    """
    entry = _require(repository, vdi_uuid)
    if _is_ours(repository):
        repository.store.supersede(vdi_uuid, entry.data["format"], entry.data["into"])
        return
    claim = entry.data["claim"]
    ask_other(repository, repository.master, "leaf_supersede", vdi_uuid=vdi_uuid, claim=claim)


def superseded(repository: Repository, vdi_uuid: str) -> bool:
    """Whether that took place; if not, it does not take place any more.

    Raises where the master does not answer: then nobody knows.
    """
    if _is_ours(repository):
        return _superseded_here(repository, vdi_uuid)
    answer = ask_other(repository, repository.master, "leaf_superseded", vdi_uuid=vdi_uuid)
    return bool(answer["done"])


def supersede_as_master(repository: Repository, vdi_uuid: str, claim: str) -> None:
    """What the master does when it is asked to; raises `Busy` where that is no longer wanted."""
    repository.require_master()
    with repository.locked("leaf-supersede"):
        entry = _require(repository, vdi_uuid)
        if entry.data["claim"] != claim or entry.data.get(SPENT):
            raise Busy(f"the merge of the leaf of {vdi_uuid} is no longer wanted")
        repository.store.supersede(vdi_uuid, entry.data["format"], entry.data["into"])


def superseded_as_master(repository: Repository, vdi_uuid: str) -> bool:
    """What the master answers."""
    repository.require_master()
    with repository.locked("leaf-superseded"):
        done = _superseded_here(repository, vdi_uuid)
        if not done:
            entry = _require(repository, vdi_uuid)
            repository.journal.advance(entry, entry.stage, **{SPENT: True})
        return done


def entry_of(repository: Repository, vdi_uuid: str) -> Entry | None:
    """The journal entry of a merge of the leaf of a disk in use."""
    found = (entry for entry in repository.journal.entries() if entry.stage == STAGE)
    return next((entry for entry in found if entry.key == vdi_uuid), None)


def _is_ours(repository: Repository) -> bool:
    store = repository.store
    return not store.named_by_master or repository.pool.is_sr_master(repository.record)


def _superseded_here(repository: Repository, vdi_uuid: str) -> bool:
    entry = _require(repository, vdi_uuid)
    return repository.store.superseded(vdi_uuid, entry.data["format"], entry.data["into"])


def _require(repository: Repository, vdi_uuid: str) -> Entry:
    entry = entry_of(repository, vdi_uuid)
    if entry is None:
        raise Busy(f"the merge of the leaf of {vdi_uuid} is no longer wanted")
    return entry
