"""What a host is asked with, checked and turned into values of ours; and how a disk is locked."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from sm.cowutil.base import ImageRef
from sm.datapath.base import Disk, Job
from sm.errors import BadRequest, Busy, LockFailed
from sm.repository import Repository
from sm.uuids import require_uuid

Arguments = Mapping[str, str]
Answer = dict[str, Any]

LOCK_SECONDS = 5.0
"""For a disk's lock; an activation that waits for the caller must not make it wait for ever."""


def vdi_of(arguments: Arguments) -> str:
    """The UUID of the disk that a request is about."""
    require_uuid(arguments["vdi_uuid"])
    return arguments["vdi_uuid"]


@contextmanager
def locked(repository: Repository, arguments: Arguments, operation: str) -> Iterator[Disk]:
    """Hold the lock of the disk that a request is about; `Busy` when somebody else has it."""
    vdi_uuid = vdi_of(arguments)
    with ExitStack() as stack:
        held = repository.locks.hold("vdi", vdi_uuid, operation, seconds=LOCK_SECONDS)
        try:
            stack.enter_context(held)
        except LockFailed as error:
            raise Busy(f"VDI {vdi_uuid}: {error.detail}") from error
        yield Disk(repository.uuid, vdi_uuid)


def chain_of(repository: Repository, arguments: Arguments) -> list[ImageRef]:
    """A chain from its wire form: JSON, (UUID, format) pairs, uppermost first."""
    try:
        named = [(str(uuid), str(name)) for uuid, name in json.loads(arguments["chain"])]
    except (ValueError, TypeError, RecursionError) as error:
        raise BadRequest(f"the chain is {arguments['chain'][:200]!r}") from error
    for uuid, name in named:
        require_uuid(uuid)
        if name not in repository.formats.names:
            raise BadRequest(f"the image format {name!r} is unknown")
    repository.store.prepare(named)
    return [ImageRef(repository.store.path(uuid, name), name) for uuid, name in named]


def uuid_of(repository: Repository, image: ImageRef) -> str:
    """The UUID of an image of the SR; empty for one of others."""
    named = repository.store.parent_uuid(Path(image.path).name)
    return "" if named is None else named[0]


def job_answer(job: Job | None) -> Answer:
    """A job in its wire form."""
    if job is None:
        return {"state": "none", "done": 0, "total": 0, "error": ""}
    return {"state": job.state.value, "done": job.done, "total": job.total, "error": job.error}
