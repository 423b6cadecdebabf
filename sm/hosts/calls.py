"""Asking a host of the pool, which may be this one."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sm.errors import HostUnreachable, SmError, code_table
from sm.hosts.actions import Answer, Arguments, perform
from sm.pool.base import Pool
from sm.repository import Repository
from sm.tree import Node


def ask(repository: Repository, host_ref: str, function: str, **arguments: str) -> Answer:
    """Have a host do something with this SR or a disk of it; see `sm.hosts.actions`.

    Raises what the host raises, by its SMAPI code, and `HostUnreachable` when it does not answer:
    then it may have done it or not.
    """
    pool = repository.pool
    if host_ref == pool.this_host().ref:
        return perform(repository, function, arguments)
    text = pool.call_host(host_ref, function, {"sr_uuid": repository.uuid, **arguments})
    answer = json.loads(text)
    if "error" in answer:
        error = answer["error"]
        name = error["name"] if error["name"] in code_table() else SmError.name
        raise SmError(error["detail"], name=name)
    result: Answer = answer["result"]
    return result


def answer_text(open_repository: Repository, function: str, arguments: Arguments) -> str:
    """What a host sends back: the result, or the error that its asker is to raise."""
    try:
        return json.dumps({"result": perform(open_repository, function, arguments)})
    except SmError as error:
        return failure_text(error)


def failure_text(error: SmError) -> str:
    """An error as a host sends it back."""
    return json.dumps({"error": {"name": error.code_name, "detail": error.detail}})


def host_by_uuid(pool: Pool, uuid: str) -> str:
    """The reference of a host; raises `HostUnreachable` when the pool has none of that UUID."""
    for host in pool.hosts():
        if host.uuid == uuid:
            return host.ref
    raise HostUnreachable(f"the pool has no host {uuid}")


def chain_text(nodes: Sequence[Node]) -> str:
    """The wire form of a chain, uppermost first."""
    return json.dumps([[node.uuid, node.format] for node in nodes])
