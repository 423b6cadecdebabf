"""How far a long merge has come, kept with the images, so that the next one goes on from there.

A record says up to which byte of the disk the target has everything, and from which images. It
counts only for exactly these images, untouched since: they are hidden, and nobody writes to them.
Where merged images give back what was copied, they tell by themselves, and no record is needed.
One that cannot be read counts for nothing: the merge begins anew, and replaces it.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Mapping

from sm import decode
from sm.cowutil.base import Steps
from sm.repository import Repository
from sm.tree import Forest

log = logging.getLogger(__name__)

PREFIX = "merged-"


def prints(repository: Repository, images: Iterable[str], image_format: str) -> dict[str, str]:
    """What tells whether any of the images was written to."""
    return {uuid: repository.store.fingerprint(uuid, image_format) for uuid in images}


def steps(repository: Repository, target: str, prints: Mapping[str, str]) -> Steps:
    """From where a merge of images with these `prints` goes on, and how it keeps account of it."""
    found = repository.store.records().get(_name(target))
    begin = 0 if found is None else _reached(found, target, prints)

    def reached(byte: int) -> None:
        content = {"images": dict(prints), "reached": byte}
        repository.store.write_record(_name(target), json.dumps(content).encode("utf-8"))

    return Steps(begin, reached)


def _reached(content: bytes, target: str, prints: Mapping[str, str]) -> int:
    """Up to which byte the target has everything of images with these prints, as a record says."""
    try:
        images, reached = _parse(content)
    except ValueError as error:
        log.warning("how far the merge into %s came cannot be read: %s", target, error)
        return 0
    return reached if images == prints else 0


def _parse(content: bytes) -> tuple[dict[str, object], int]:
    """The images and the byte of a record; ValueError for something else."""
    if not content:
        raise ValueError("it is empty, or no regular file of a bounded length")
    found = decode.members(content, {"images": (dict,), "reached": (int,)})
    if found["reached"] < 0:
        raise ValueError(f"reached is {found['reached']}")
    return found["images"], found["reached"]


def unreadable(records: Mapping[str, bytes]) -> list[str]:
    """The names of those among the records of an SR that should be such ones and are not."""
    found = []
    for name, content in records.items():
        if name.startswith(PREFIX):
            try:
                _parse(content)
            except ValueError:
                found.append(name)
    return found


def forget(repository: Repository, target: str) -> None:
    """The merge is complete."""
    repository.store.remove_record(_name(target))


def forget_stale(repository: Repository, forest: Forest) -> None:
    """Remove the records of targets that are not there any more."""
    for name in repository.store.records():
        if name.startswith(PREFIX) and name.removeprefix(PREFIX) not in forest:
            repository.store.remove_record(name)


def _name(target: str) -> str:
    return f"{PREFIX}{target}"
