"""Asking a host of the pool, which may be this one; and answering when this host is asked."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence

from sm.config import Settings
from sm.cowutil.errors import ImageError
from sm.errors import BadRequest, HostUnreachable, SmError
from sm.hosts.actions import perform
from sm.hosts.answers import ask_other, failure, result_of, success
from sm.hosts.arguments import Answer, Arguments
from sm.log import about
from sm.owner import boot_id
from sm.pool.base import Pool
from sm.repository import Repository
from sm.smapi.driver_info import VERSION
from sm.tree import Node
from sm.uuids import require_uuid

log = logging.getLogger(__name__)

OF_PROCESSES = frozenset({"look", "serving"})
"""What is answered from the processes of the host, whether the storage is there or not."""

HELLO = "hello"
"""The one function that is about a host, not about an SR."""


def ask(repository: Repository, host_ref: str, function: str, **arguments: str) -> Answer:
    """Have a host do something with this SR or a disk of it; see `sm.hosts.actions`.

    Raises what the host raises, by its SMAPI code, and `HostUnreachable` when it does not answer:
    then it may have done it or not.
    """
    if host_ref == repository.pool.this_host().ref:
        return perform(repository, function, arguments)
    return ask_other(repository, host_ref, function, **arguments)


def hello(pool: Pool, host_ref: str) -> Answer:
    """What a host says of itself: `host` (UUID), `boot`, `version`.

    This host is called as the others are. Raises as `ask`.
    """
    return result_of(pool, host_ref, pool.call_host(host_ref, HELLO, {}))


def answer(settings: Settings, pool: Pool, function: str, arguments: Arguments) -> str:
    """What this host sends back when asked; all failures but defects are in the text."""
    with about(sr=arguments.get("sr_uuid", ""), vdi=arguments.get("vdi_uuid", "")):
        return _answer(settings, pool, function, arguments)


def _answer(settings: Settings, pool: Pool, function: str, arguments: Arguments) -> str:
    try:
        expected = arguments.get("host", settings.host_uuid)
        if expected != settings.host_uuid:
            raise HostUnreachable(f"this is host {settings.host_uuid}, not {expected}")
        if function == HELLO:
            return success({"host": settings.host_uuid, "boot": boot_id(), "version": VERSION})
        if "sr_uuid" not in arguments:
            raise BadRequest(f"{function}: sr_uuid is missing")
        require_uuid(arguments["sr_uuid"])
        present = function not in OF_PROCESSES
        repository = Repository.open(arguments["sr_uuid"], settings, pool, present=present)
        return success(perform(repository, function, arguments))
    except SmError as error:
        log.info("%r: %s", function, error)
        return failure(error)
    except (ImageError, OSError) as error:
        log.warning("%r: %s", function, error, exc_info=error)
        return failure(SmError(str(error)))


def host_by_uuid(pool: Pool, uuid: str) -> str:
    """The reference of a host; raises `HostUnreachable` when the pool has none of that UUID."""
    for host in pool.hosts():
        if host.uuid == uuid:
            return host.ref
    raise HostUnreachable(f"the pool has no host {uuid}")


def chain_text(nodes: Sequence[Node]) -> str:
    """The wire form of a chain, uppermost first."""
    return json.dumps([[node.uuid, node.format] for node in nodes])
