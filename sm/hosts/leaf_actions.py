"""What a host does for the merge of the leaf of a disk that it serves; see `leaf_switch`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict

from sm.cowutil.base import ImageRef
from sm.datapath.base import Disk, MirroringDatapath
from sm.datapath.choose import Datapaths
from sm.errors import BadRequest, Busy, Unimplemented, VdiMissing
from sm.hosts import leaf_switch, naming
from sm.hosts.arguments import Answer, Arguments, job_answer, locked, uuid_of, vdi_of
from sm.repository import Repository
from sm.uuids import require_uuid


def _mirror_start(repository: Repository, arguments: Arguments) -> Answer:
    """Begin to copy the leaf of a disk into the image `into` below it, and go on with that."""
    with locked(repository, arguments, "mirror") as disk:
        into = _into(repository, arguments, disk)
        found = Datapaths(repository.settings).settle(disk)
        if found is None:
            raise VdiMissing(f"no process of this host serves {disk.vdi}")
        if not isinstance(found[0], MirroringDatapath):
            raise Unimplemented(f"{found[0].name} cannot merge a leaf that is written")
        images = [(uuid_of(repository, image), image.format) for image in found[1].chain]
        repository.store.prepare(images)
        found[0].start_mirror(disk, into)
        return {}


def _mirror_look(repository: Repository, arguments: Arguments) -> Answer:
    """How far the mirror of a disk is; `none` when no process has one."""
    with locked(repository, arguments, "mirror") as disk:
        found = Datapaths(repository.settings).settle(disk)
        if found is None or not isinstance(found[0], MirroringDatapath):
            return job_answer(None)
        return job_answer(found[0].mirror(disk))


def _leaf_switch(repository: Repository, arguments: Arguments) -> Answer:
    """Hold the users of a disk, bring the rest of its leaf into `into`, and let that take its name.

    `seconds`: for how long users may be held; `budget`: bytes that may be copied meanwhile where
    there is no mirror.
    """
    with locked(repository, arguments, "leaf-switch") as disk, repository.locked("leaf-switch"):
        into = _into(repository, arguments, disk)
        try:
            seconds, budget = float(arguments["seconds"]), int(arguments["budget"])
        except ValueError as error:
            raise BadRequest(f"seconds, budget: {error}") from error
        return asdict(leaf_switch.switch(repository, disk, into, seconds=seconds, budget=budget))


def _leaf_settle(repository: Repository, arguments: Arguments) -> Answer:
    """End the merge of the leaf of a disk, whatever it had come to; whether a process serves it."""
    with locked(repository, arguments, "leaf-settle") as disk, repository.locked("leaf-settle"):
        return {"served": leaf_switch.settle(repository, disk)}


def _leaf_supersede(repository: Repository, arguments: Arguments) -> Answer:
    """As the SR master: let the image that a leaf was merged into take the leaf's name."""
    naming.supersede_as_master(repository, vdi_of(arguments), arguments["claim"])
    return {}


def _leaf_superseded(repository: Repository, arguments: Arguments) -> Answer:
    """As the SR master: whether that took place; if not, it never will."""
    return {"done": naming.superseded_as_master(repository, vdi_of(arguments))}


ACTIONS: Mapping[str, Callable[[Repository, Arguments], Answer]] = {
    "mirror_start": _mirror_start,
    "mirror_look": _mirror_look,
    "leaf_switch": _leaf_switch,
    "leaf_settle": _leaf_settle,
    "leaf_supersede": _leaf_supersede,
    "leaf_superseded": _leaf_superseded,
}
"""By name, each about a disk; see `sm.hosts.actions`."""


def _into(repository: Repository, arguments: Arguments, disk: Disk) -> ImageRef:
    """The image that the leaf is merged into.

    A request that comes late, when whoever sent it has given up, must do nothing: its claim is no
    longer that of the journal entry.
    """
    into, claim = arguments["into"], arguments["claim"]
    require_uuid(into)
    entry = naming.entry_of(repository, disk.vdi)
    if entry is None or (entry.data["into"], entry.data["claim"]) != (into, claim):
        raise Busy(f"the merge of the leaf of {disk.vdi} is no longer wanted")
    image_format = entry.data["format"]
    return ImageRef(repository.store.path(into, image_format), image_format)
