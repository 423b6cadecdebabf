"""The executable side of a driver: one XML-RPC call as the only argument, one reply on stdout.

Nothing else reaches standard output, the exit status is always 0, and a traceback goes to the log
alone. Driver information is answered before anything heavy is imported, because XAPI asks every
driver for it at every start.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sm.errors import BadRequest, ChoiceNeeded, SmError
from sm.smapi import xmlrpc

if TYPE_CHECKING:
    from sm.sr import SrDriver

log = logging.getLogger(__name__)


def main(driver_class: type[SrDriver]) -> None:
    """Answer the call in `sys.argv`; the process is then at its end."""
    # Children and stray prints must not spoil the reply: they get standard error instead.
    reply = os.dup(1)
    os.dup2(2, 1)
    with os.fdopen(reply, "w", encoding="utf-8") as stdout:
        stdout.write(answer(driver_class, sys.argv[1:]))


def answer(driver_class: type[SrDriver], arguments: Sequence[str]) -> str:
    """The reply or fault document for a command line; raises nothing that is an error of ours."""
    try:
        if len(arguments) != 1:
            raise BadRequest(f"one argument is needed, an XML-RPC methodCall; got {len(arguments)}")
        method, parameters = xmlrpc.parse_call(arguments[0])
        if method == "sr_get_driver_info":
            return xmlrpc.reply(driver_class.info.wire())
        # Behind driver information, for the sake of its speed.
        from sm.commands import perform  # noqa: PLC0415

        return xmlrpc.reply(perform(driver_class, method, parameters))
    except ChoiceNeeded as error:
        # Clients that offer the choice read it from standard error, and expect nothing else there.
        sys.stderr.write(error.document)
        return xmlrpc.fault(error.code, error.fault_string)
    except SmError as error:
        return xmlrpc.fault(error.code, error.fault_string)
    except Exception as error:
        # A defect of ours must reach XAPI as a fault, and its traceback the log.
        log.exception("unexpected failure")
        unexpected = SmError(f"{type(error).__name__}: {error}", name="GenericException")
        return xmlrpc.fault(unexpected.code, unexpected.fault_string)
