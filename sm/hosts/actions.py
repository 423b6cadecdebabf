"""What a host does when it is asked to, with disks that it serves and merges that it runs.

The caller is another host, or this one. Arguments and answers are plain, so that they travel as
JSON. Whatever concerns a disk happens under its lock, so it comes before or after an activation on
this host, never in the middle; the wait for it is short, and then `Busy`. An activation that waits
for claims does not hold it: nothing is open yet, and nothing will be before it has looked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from sm import claims, keys, room
from sm.datapath.base import CommittingDatapath, Datapath, Disk, Job, JobState, Served
from sm.datapath.choose import Datapaths
from sm.errors import BadRequest, Busy, SmError, Unimplemented, VdiMissing
from sm.hosts import leaf_actions, leaf_switch, serving
from sm.hosts.arguments import Answer, Arguments, chain_of, job_answer, locked, uuid_of, vdi_of
from sm.kick import kick
from sm.repository import Repository

CANCEL_SECONDS = 30.0
"""For a commit to end once it was told to."""

POLL_SECONDS = 0.02


def perform(repository: Repository, function: str, arguments: Arguments) -> Answer:
    """Carry out one request about an SR that is attached on this host.

    Raises `BadRequest` for an unknown function, and for arguments that are missing or senseless.
    """
    action = ACTIONS.get(function)
    if action is None:
        raise BadRequest(f"a host cannot {function!r}")
    try:
        return action(repository, arguments)
    except KeyError as error:
        raise BadRequest(f"{function}: {error} is missing") from error


def _look(repository: Repository, arguments: Arguments) -> Answer:
    """Whether and how this host serves a disk; with `as_is` nothing half started is ended."""
    with locked(repository, arguments, "look") as disk:
        datapaths = Datapaths(repository.settings)
        found = datapaths.find(disk) if "as_is" in arguments else datapaths.settle(disk)
        return {"served": False} if found is None else _describe(repository, *found)


def _refresh(repository: Repository, arguments: Arguments) -> Answer:
    """Have a disk served from another chain that reads the same."""
    chain = chain_of(repository, arguments)
    return _tell_datapath(repository, arguments, "refresh", lambda d, disk: d.refresh(disk, chain))


def _pause(repository: Repository, arguments: Arguments) -> Answer:
    """Make the users of a disk wait, with its images closed."""
    return _tell_datapath(repository, arguments, "pause", lambda d, disk: d.pause(disk))


def _resume(repository: Repository, arguments: Arguments) -> Answer:
    """Let the users of a disk go on, with a chain."""
    chain = chain_of(repository, arguments)
    return _tell_datapath(repository, arguments, "resume", lambda d, disk: d.resume(disk, chain))


def _tell_datapath(
    repository: Repository,
    arguments: Arguments,
    operation: str,
    tell: Callable[[Datapath, Disk], None],
) -> Answer:
    """Whether a process serves the disk; if so, it was told."""
    with locked(repository, arguments, operation) as disk:
        found = Datapaths(repository.settings).settle(disk)
        if found is not None:
            tell(found[0], disk)
        return {"served": found is not None}


def _commit_start(repository: Repository, arguments: Arguments) -> Answer:
    """Begin to merge the image `top` of an open chain, and all between, into `base`.

    `rate`, if given: at most so many bytes per second, where the datapath can keep to it.
    """
    with locked(repository, arguments, "commit") as disk:
        datapath, served = _committing(repository, disk)
        named = {uuid_of(repository, image): image for image in served.chain}
        try:
            top, base = named[arguments["top"]], named[arguments["base"]]
        except KeyError as error:
            raise SmError(f"{disk.vdi} does not have {error} open") from error
        repository.store.prepare([(uuid, image.format) for uuid, image in named.items()])
        datapath.start_commit(disk, top, base, _rate(arguments) or 0)
        return {}


def _commit_look(repository: Repository, arguments: Arguments) -> Answer:
    """How far the commit of a disk is; `none` when no process has one.

    `rate`, if given, is its limit from now on; 0 for none.
    """
    with locked(repository, arguments, "commit") as disk:
        found = Datapaths(repository.settings).settle(disk)
        job = None
        if found is not None and isinstance(found[0], CommittingDatapath):
            job = found[0].job(disk)
            rate = _rate(arguments)
            if rate is not None and job is not None and job.state is JobState.RUNNING:
                found[0].limit_commit(disk, rate)
        return job_answer(job)


def _rate(arguments: Arguments) -> int | None:
    """Bytes per second that a commit may copy, 0 for no limit; None where nothing is said."""
    if "rate" not in arguments:
        return None
    try:
        return int(arguments["rate"])
    except ValueError as error:
        raise BadRequest(f"the rate is {arguments['rate']!r}") from error


def _commit_finish(repository: Repository, arguments: Arguments) -> Answer:
    """Take note of the end of a commit; the merged images are then closed."""
    with locked(repository, arguments, "commit") as disk:
        found = Datapaths(repository.settings).settle(disk)
        if found is not None and isinstance(found[0], CommittingDatapath) and found[0].job(disk):
            found[0].finish_commit(disk)
        return {}


def _commit_stop(repository: Repository, arguments: Arguments) -> Answer:
    """End the commit of a disk, one way or the other, and say how it ended.

    `done` leaves it to be finished; any other end is taken note of. Raises `Busy` when it goes on.
    """
    with locked(repository, arguments, "commit") as disk:
        found = Datapaths(repository.settings).settle(disk)
        if found is None:
            return {"served": False, **job_answer(None)}
        datapath = found[0]
        if not isinstance(datapath, CommittingDatapath):
            return {"served": True, **job_answer(None)}
        job = datapath.job(disk)
        if job is not None and job.state is JobState.RUNNING:
            datapath.cancel_commit(disk)
            job = _ended(datapath, disk)
        if job is not None and job.state is not JobState.DONE:
            datapath.finish_commit(disk)
        return {"served": True, **job_answer(job)}


def _give_way(repository: Repository, arguments: Arguments) -> Answer:
    """Make the merge behind the claim `claim` give up; finish for it if its process has ended.

    A change of a disk gives no way: it is short.
    """
    wanted = arguments["claim"]
    for claim in claims.standing(repository):
        if claim.id != wanted:
            continue
        if claim.owner.ended(repository.settings.host_uuid):
            repository.settle()
            claims.drop_stale(repository)
        elif claim.key.startswith(keys.CLAIM_PREFIX):
            claims.ask_to_yield(repository, claim)
            # It may be at rest, with work that it could not settle: then it looks again.
            kick(repository.settings.run, repository.uuid)
    return {}


def _kick(repository: Repository, arguments: Arguments) -> Answer:
    """Wake the collector of this SR, if there is one."""
    del arguments
    return {"heard": kick(repository.settings.run, repository.uuid)}


def _give_room(repository: Repository, arguments: Arguments) -> Answer:
    """Give the volume of a disk the room that it needs to be written.

    With `now` the caller has it open, and wants so many bytes; it has `size`, and the image
    `format`. Else nobody has it open, and the caller has the lock of the disk; `whole` asks for all
    that it can ever need.
    """
    vdi_uuid = vdi_of(arguments)
    if "now" not in arguments:
        room.give(repository, vdi_uuid, whole="whole" in arguments)
        return {}
    if arguments["format"] not in repository.formats.names:
        raise BadRequest(f"the image format {arguments['format']!r} is unknown")
    try:
        wanted = room.InUse(arguments["format"], int(arguments["now"]), int(arguments["size"]))
    except ValueError as error:
        raise BadRequest(f"now, size: {error}") from error
    room.give_more(repository, vdi_uuid, wanted)
    return {}


def _take_back_room(repository: Repository, arguments: Arguments) -> Answer:
    """Take what the volume of a disk does not need, which the caller has just closed."""
    room.take_back(repository, vdi_of(arguments))
    return {}


ACTIONS: Mapping[str, Callable[[Repository, Arguments], Answer]] = {
    "look": _look,
    "refresh": _refresh,
    "pause": _pause,
    "resume": _resume,
    "commit_start": _commit_start,
    "commit_look": _commit_look,
    "commit_finish": _commit_finish,
    "commit_stop": _commit_stop,
    "give_way": _give_way,
    "give_room": _give_room,
    "take_back_room": _take_back_room,
    "kick": _kick,
    **leaf_actions.ACTIONS,
    **serving.ACTIONS,
}
"""By name. Each is asked with `sr_uuid`; those about a disk with `vdi_uuid`."""


def _committing(repository: Repository, disk: Disk) -> tuple[CommittingDatapath, Served]:
    found = Datapaths(repository.settings).settle(disk)
    if found is None:
        raise VdiMissing(f"no process of this host serves {disk.vdi}")
    datapath, served = found
    if not isinstance(datapath, CommittingDatapath):
        raise Unimplemented(f"{datapath.name} cannot merge what it has open")
    return datapath, served


def _ended(datapath: CommittingDatapath, disk: Disk) -> Job | None:
    deadline = time.monotonic() + CANCEL_SECONDS
    while (job := datapath.job(disk)) is not None and job.state is JobState.RUNNING:
        if time.monotonic() > deadline:
            raise Busy(f"the commit of {disk.vdi} does not stop")
        time.sleep(POLL_SECONDS)
    return job


def _describe(repository: Repository, datapath: Datapath, served: Served) -> Answer:
    return {
        "served": True,
        "datapath": served.datapath,
        "commits_runs": isinstance(datapath, CommittingDatapath) and datapath.commits_runs,
        "pid": served.endpoint.pid,
        "nbd": served.endpoint.nbd,
        "path": None if served.endpoint.path is None else str(served.endpoint.path),
        "read_only": served.read_only,
        "grows": served.grows,
        "paused": served.paused,
        "leaf_merge": leaf_switch.way(datapath, served),
        "chain": [uuid_of(repository, image) for image in served.chain],
    }
