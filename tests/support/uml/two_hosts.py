"""Two hosts with one disk: two guests at once that have the same file as /dev/ubda."""

from __future__ import annotations

import json
import socket
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.patience import patient
from tests.support.uml.guest import Ended, Guest, How
from tests.support.uml.meeting import RESULT
from tests.support.uml.setup import Setup, Wire

NAMES = ("a", "b")
ADDRESSES = {"a": "10.0.0.1", "b": "10.0.0.2"}
"""Of the hosts, in the network between the two."""

DEADLINE_SECONDS = patient(60)


def run_two(
    modules: tuple[str, str], disk: Path, folder: Path, seconds: float = DEADLINE_SECONDS
) -> tuple[Any, Any]:
    """Run a module of the repository on each host, "a" and "b"; returns what they tell as results.

    They meet through `folder`, with `Meeting`, and in a network that only they have. When one
    fails, the other is ended and AssertionError has what both said.
    """
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with ExitStack() as stack:
        guests = []
        for number, (module, name, end) in enumerate(zip(modules, NAMES, ends, strict=True)):
            setup = Setup(
                disks=(disk,),
                shares=(folder,),
                deadline_seconds=seconds,
                wire=Wire(stack.enter_context(end), ADDRESSES[name]),
                cpu=number,
            )
            command = [sys.executable, "-m", module, str(folder), name]
            guests.append(stack.enter_context(Guest(command, setup)))
        ended: list[Ended | None] = [None, None]
        while None in ended:
            ended = [guest.look() for guest in guests]
            failed = [end for end in ended if end and (end.how, end.status) != (How.RETURNED, 0)]
            assert not failed, "\n".join(map(str, ended))
    a, b = (json.loads((folder / f"{name}.{RESULT}.json").read_text()) for name in NAMES)
    return a, b
