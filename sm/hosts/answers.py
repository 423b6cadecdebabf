"""What is sent back by a host that was asked, and asking one that is not this."""

from __future__ import annotations

import json

from sm.errors import HostUnreachable, SmError, code_table
from sm.hosts.arguments import Answer
from sm.pool.base import Pool
from sm.repository import Repository


def ask_other(repository: Repository, host_ref: str, function: str, **arguments: str) -> Answer:
    """Have another host do something; see `sm.hosts.calls.ask`."""
    pool = repository.pool
    text = pool.call_host(host_ref, function, {"sr_uuid": repository.uuid, **arguments})
    return result_of(pool, host_ref, text)


def success(result: Answer) -> str:
    """What is sent for a request that was carried out."""
    return json.dumps({"result": result})


def failure(error: SmError) -> str:
    """What is sent for one that was not."""
    return json.dumps({"error": {"name": error.code_name, "detail": error.detail}})


def result_of(pool: Pool, host_ref: str, text: str) -> Answer:
    """What a host has sent; raises what it says, by its SMAPI code."""
    try:
        answer = json.loads(text)
        if "result" in answer:
            return dict(answer["result"])
        name, detail = str(answer["error"]["name"]), str(answer["error"]["detail"])
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        named = _named(pool, host_ref)
        raise HostUnreachable(f"host {named} answers senselessly: {text[:200]!r}") from error
    named = _named(pool, host_ref)
    said = f"host {named}: {detail}"
    if name == HostUnreachable.name:
        raise HostUnreachable(said)
    raise SmError(said, name=name if name in code_table() else SmError.name)


def _named(pool: Pool, host_ref: str) -> str:
    """A host in words."""
    return {host.ref: host.name_label or host.uuid for host in pool.hosts()}.get(host_ref, host_ref)
