"""The names of an SR's disks as JSON, for storages that keep files. Pure.

`{"version": 1, "name_label", "name_description", "disks": [...]}`, a disk with the fields of
`Described`.
"""

from __future__ import annotations

import json
from dataclasses import fields, replace
from typing import Any

from sm.errors import SmError
from sm.volumes.described import Catalogue, Described, Keep

VERSION = 1

MOST_BYTES = 64 << 20
"""More than is ever written: the names of some 100,000 disks."""

_KINDS = {field.name: type(getattr(Described(""), field.name)) for field in fields(Described)}


def read(content: bytes) -> Catalogue:
    """The names in `content`, none where it is empty.

    A disk that is not described as it must be is left out; raises `SmError` where nothing can be
    read.
    """
    if not content:
        return Catalogue()
    try:
        document = _document(content)
    except ValueError as error:
        raise SmError(f"the names of the disks: {error}", name="MetadataError") from error
    return _catalogue(document)


def following(content: bytes, catalogue: Catalogue, keep: Keep) -> bytes:
    """What is to be written for `catalogue` to count, where `content` is now; equal for no change.

    Raises `SmError` where a later version wrote `content`, or where there is too much to say.
    """
    wanted = _written(catalogue)
    if wanted != content:
        kept = {
            uuid: disk
            for uuid, disk in _present(content).disks.items()
            if uuid not in catalogue.disks and keep(uuid)
        }
        if kept:
            wanted = _written(replace(catalogue, disks={**catalogue.disks, **kept}))
    if len(wanted) > MOST_BYTES:
        raise SmError(f"the names of the disks take {len(wanted)} bytes", name="MetadataError")
    return wanted


def _written(catalogue: Catalogue) -> bytes:
    document = {
        "version": VERSION,
        "name_label": catalogue.name_label,
        "name_description": catalogue.name_description,
        "disks": [_entry(catalogue.disks[uuid]) for uuid in sorted(catalogue.disks)],
    }
    return json.dumps(document, separators=(",", ":")).encode("ascii")


def _present(content: bytes) -> Catalogue:
    """What there is and could be kept; nothing where it is damaged."""
    try:
        document = _document(content) if content else {}
    except ValueError:
        return Catalogue()
    version = document.get("version", VERSION)
    if not isinstance(version, int) or version > VERSION:
        raise SmError(f"the names of the disks are of version {version!r}", name="MetadataError")
    return _catalogue(document)


def _document(content: bytes) -> dict[str, Any]:
    """The document; ValueError for something else."""
    if len(content) > MOST_BYTES:
        raise ValueError(f"more than {MOST_BYTES} bytes")
    try:
        document = json.loads(content)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(document, dict):
        raise ValueError("no object")
    return document


def _catalogue(document: dict[str, Any]) -> Catalogue:
    listed = document.get("disks")
    disks = [_disk(each) for each in listed] if isinstance(listed, list) else []
    label, description = document.get("name_label"), document.get("name_description")
    return Catalogue(
        label if isinstance(label, str) else "",
        description if isinstance(description, str) else "",
        {disk.uuid: disk for disk in disks if disk is not None},
    )


def _entry(disk: Described) -> dict[str, Any]:
    return {name: getattr(disk, name) for name in _KINDS}


def _disk(entry: object) -> Described | None:
    if not isinstance(entry, dict) or "uuid" not in entry:
        return None
    known = {name: value for name, value in entry.items() if name in _KINDS}
    if any(type(value) is not _KINDS[name] for name, value in known.items()):
        return None
    return Described(**known)
