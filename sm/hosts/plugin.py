"""XAPI's host plugins: one XML-RPC call as the only argument, one reply on standard output.

`sm` carries what hosts ask of each other, with the same answers that `sm-hostd` gives.
`tapdisk-pause` is the part of it that other programs know by that name. XAPI starts an executable
of that name, lets only its own callers in, and hands over a session.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence

from sm import config, log
from sm.config import Settings
from sm.errors import BadRequest, SmError, VdiMissing
from sm.hosts.actions import perform
from sm.hosts.arguments import Arguments
from sm.hosts.calls import answer, chain_text
from sm.pool.base import Pool
from sm.pool.open import open_pool
from sm.repository import Repository
from sm.smapi import xmlrpc
from sm.uuids import require_uuid

logger = logging.getLogger(__name__)

Plugin = Callable[[Settings, Pool, str, Arguments], str]
"""From function and arguments to the text that XAPI passes on."""


def main(name: str) -> None:
    """Answer the call in `sys.argv` as the plugin `name`; the process is then at its end."""
    # Children and stray prints must not spoil the reply: they get standard error instead.
    reply = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(reply, "w", encoding="utf-8") as stdout:
        stdout.write(respond(PLUGINS[name], sys.argv[1:]))


def respond(plugin: Plugin, arguments: Sequence[str]) -> str:
    """The reply for a command line; raises nothing that is an error of ours."""
    try:
        return xmlrpc.reply({"Status": "Success", "Value": _run(plugin, arguments)})
    except SmError as error:
        return _failure(error)
    except Exception as error:
        # A defect of ours must reach XAPI as a failure, and its traceback the log.
        logger.exception("unexpected failure")
        return _failure(SmError(f"{type(error).__name__}: {error}", name="GenericException"))


def _run(plugin: Plugin, arguments: Sequence[str]) -> str:
    if len(arguments) != 1:
        raise BadRequest(f"one argument is needed, an XML-RPC methodCall; got {len(arguments)}")
    function, parameters = xmlrpc.parse_call(arguments[0])
    match parameters:
        case [str(session), dict(given)]:
            texts = {name: text for name, text in given.items() if isinstance(text, str)}
            if len(texts) < len(given):
                raise BadRequest("the arguments must be strings")
        case _:
            raise BadRequest("the parameters must be a session and a struct")
    settings = config.load()
    log.start(settings.log_target, settings.log_file)
    with open_pool(settings, session) as pool:
        return plugin(settings, pool, function, texts)


def _failure(error: SmError) -> str:
    description: list[xmlrpc.Value] = ["XENAPI_PLUGIN_FAILURE", error.code_name, error.fault_string]
    return xmlrpc.reply({"Status": "Failure", "ErrorDescription": description})


def _tapdisk_pause(settings: Settings, pool: Pool, function: str, arguments: Arguments) -> str:
    """Have a disk's users wait, or go on with the chain that the disk has now.

    A disk that no process serves here has no users, so that is done as well.
    """
    action = _ACTIONS.get(function)
    if action is None:
        raise BadRequest(f"tapdisk-pause cannot {function!r}")
    for name in ("sr_uuid", "vdi_uuid"):
        if name not in arguments:
            raise BadRequest(f"{function}: {name} is missing")
        require_uuid(arguments[name])
    repository = Repository.open(arguments["sr_uuid"], settings, pool)
    vdi_uuid = arguments["vdi_uuid"]
    wanted = {"vdi_uuid": vdi_uuid}
    if function != "pause":
        forest = repository.look(function).forest
        if vdi_uuid not in forest:
            raise VdiMissing(f"{vdi_uuid}: its image is missing")
        wanted["chain"] = chain_text(forest.chain(vdi_uuid))
    perform(repository, action, wanted)
    return "True"


def _trim(settings: Settings, pool: Pool, function: str, arguments: Arguments) -> str:
    """Discard the free space of an SR, on its master."""
    if function != "do_trim" or "sr_uuid" not in arguments:
        raise BadRequest(f"trim cannot {function!r}, or does not know of which SR")
    require_uuid(arguments["sr_uuid"])
    repository = Repository.open(arguments["sr_uuid"], settings, pool)
    repository.require_master()
    with repository.locked(function):
        repository.store.discard_free()
    return "True"


_ACTIONS: Mapping[str, str] = {"pause": "pause", "unpause": "resume", "refresh": "refresh"}

PLUGINS: Mapping[str, Plugin] = {"sm": answer, "tapdisk-pause": _tapdisk_pause, "trim": _trim}
"""By the name of the executable."""
