"""Mending what can be mended without risk, by the ways that the storage manager has anyway.

Nothing here writes to an image or removes one, but for unfinished work, which is ended as any
command would end it. Each step looks again, under the lock that guards it, whether it is still
called for; the log has each.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence

from sm import activation, keys, snapshot
from sm.cowutil.errors import ImageError
from sm.datapath.base import Disk
from sm.datapath.choose import Datapaths
from sm.datapath.links import Links
from sm.datapath.state import Notes
from sm.doctor.carriers import carrier
from sm.doctor.finding import (
    ORDER,
    ClearMark,
    DropClaim,
    DropProgress,
    Finding,
    PublishUse,
    Recover,
    Remedy,
    RemoveLink,
    ResetKey,
    Scan,
    SetAside,
    SetNoteAside,
    SettleStart,
)
from sm.errors import SmError, VdiInUse
from sm.gc.copying import resume
from sm.hosts import serving
from sm.journal import RELEASED, shown
from sm.owner import has_ended
from sm.repository import Repository
from sm.sr import scan_sr

log = logging.getLogger(__name__)


def plan(findings: Sequence[Finding]) -> list[Remedy]:
    """The remedies for the findings of one SR, each once, in the order of `ORDER`. Pure."""
    wanted = dict.fromkeys(each.remedy for each in findings if each.remedy is not None)
    return sorted(wanted, key=lambda remedy: ORDER.index(type(remedy)))


def in_words(remedy: Remedy) -> str:
    """What a remedy does."""
    match remedy:
        case Recover():
            return "finish or undo the work that was interrupted"
        case SetAside(record):
            return f"give the record {shown(record)} another name; what it holds stays held"
        case SetNoteAside(vdi):
            return f"give the note about {vdi} another name, if no process may be its"
        case DropProgress(record):
            return f"give the record {shown(record)} another name"
        case DropClaim(key):
            return f"withdraw the claim {key}"
        case ClearMark(vdi, key):
            return f"take the mark {key} from {vdi}"
        case ResetKey(vdi):
            return f"take back that {vdi} is active on this host, if no process serves it"
        case SettleStart(vdi):
            return f"end the process of {vdi} that is half started"
        case PublishUse(vdi):
            return f"say in the record of {vdi} that this host serves it"
        case RemoveLink(vdi):
            return f"remove the dead link of {vdi}"
        case Scan():
            return "remove temporary files, and bring the records in line with the images"


def mend(repository: Repository, remedy: Remedy) -> str | None:
    """Carry out one remedy. Returns None, or why it could not be done; that is no defect of ours.

    What is not called for any more is passed over.
    """
    log.info("doctor: SR %s: %s", repository.uuid, in_words(remedy))
    try:
        _apply(repository, remedy)
    except (SmError, ImageError, OSError) as error:
        log.warning("doctor: SR %s: %s: %s", repository.uuid, in_words(remedy), error)
        return error.detail or error.text if isinstance(error, SmError) else str(error)
    return None


def _apply(repository: Repository, remedy: Remedy) -> None:
    match remedy:
        case Recover():
            _recover(repository)
        case SetAside():
            with repository.locked("doctor"):
                repository.journal.set_aside(remedy.record)
        case SetNoteAside():
            _set_note_aside(repository, remedy)
        case DropProgress():
            _drop_progress(repository, remedy.record)
        case DropClaim():
            _drop_claim(repository, remedy)
        case ClearMark():
            _clear_mark(repository, remedy)
        case ResetKey():
            _reset_key(repository, remedy)
        case SettleStart():
            _settle_start(repository, remedy)
        case PublishUse():
            _publish_use(repository, remedy)
        case RemoveLink():
            _remove_link(repository, remedy)
        case Scan():
            _scan(repository)


def _recover(repository: Repository) -> None:
    repository.require_master()
    repository.settle()
    with repository.locked("doctor"):
        snapshot.recover(repository)


def _set_note_aside(repository: Repository, remedy: SetNoteAside) -> None:
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        notes = Notes(remedy.folder)
        if remedy.vdi in notes.unreadable() and carrier(remedy.vdi) is None:
            notes.set_aside(remedy.vdi)


def _drop_progress(repository: Repository, record: str) -> None:
    """While no collector works: what it holds open would be written anew."""
    with repository.locks.hold("collector", repository.uuid, "doctor"), repository.locked("doctor"):
        records = repository.store.records()
        if record in resume.unreadable(records):
            repository.store.rename_record(record, f"{RELEASED}{time.time_ns()}-{shown(record)}")


def _drop_claim(repository: Repository, remedy: DropClaim) -> None:
    with repository.locked("doctor"):
        kept = repository.pool.sr_by_uuid(repository.uuid)
        if kept.sm_config.get(remedy.key) == remedy.value:
            repository.pool.remove_from_sr_sm_config(kept.ref, remedy.key)


def _clear_mark(repository: Repository, remedy: ClearMark) -> None:
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        record = repository.vdis().get(remedy.vdi)
        if record is not None and record.sm_config.get(remedy.key) == remedy.value:
            repository.pool.remove_from_vdi_sm_config(record.ref, remedy.key)


def _reset_key(repository: Repository, remedy: ResetKey) -> None:
    """An activation that waits for a merge has its key, no process yet, and a mark that lives."""
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        record = repository.vdis().get(remedy.vdi)
        if record is None or remedy.host not in repository.active_hosts(record):
            return
        mark = record.sm_config.get(keys.ACTIVATING)
        if mark is not None and not has_ended(mark, repository.settings.host_uuid):
            return
        activation.reset(repository, remedy.vdi, remedy.host, certain=False)


def _settle_start(repository: Repository, remedy: SettleStart) -> None:
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        Datapaths(repository.settings).settle(Disk(repository.uuid, remedy.vdi))


def _publish_use(repository: Repository, remedy: PublishUse) -> None:
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        if not serving.publish(repository, Disk(repository.uuid, remedy.vdi)):
            raise VdiInUse(f"{remedy.vdi} is not served here, or another host has it, too")


def _remove_link(repository: Repository, remedy: RemoveLink) -> None:
    disk = Disk(repository.uuid, remedy.vdi)
    with repository.locks.hold("vdi", remedy.vdi, "doctor"):
        if Datapaths(repository.settings).find(disk) is None:
            Links(repository.settings).remove(disk)


def _scan(repository: Repository) -> None:
    repository.require_master()
    repository.settle()
    with repository.locked("doctor"):
        snapshot.recover(repository)
        repository.store.remove_unfinished()
        scan_sr(repository)
