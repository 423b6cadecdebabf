"""Two hosts with one disk: two guests at once that have the same file as /dev/ubda."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tests.support.uml.guest import Ended, Guest, How
from tests.support.uml.meeting import RESULT
from tests.support.uml.setup import Setup

NAMES = ("a", "b")
DEADLINE_SECONDS = 120.0


def run_two(modules: tuple[str, str], disk: Path, folder: Path) -> tuple[Any, Any]:
    """Run a module of the repository on each host, "a" and "b"; returns what they tell as results.

    They meet through `folder`, with `Meeting`. When one fails, the other is ended and
    AssertionError has what both said.
    """
    setup = Setup(disks=(disk,), shares=(folder,), deadline_seconds=DEADLINE_SECONDS)
    with ExitStack() as stack:
        guests = [
            stack.enter_context(Guest([sys.executable, "-m", module, str(folder), name], setup))
            for module, name in zip(modules, NAMES, strict=True)
        ]
        ended: list[Ended | None] = [None, None]
        while None in ended:
            ended = [guest.look() for guest in guests]
            failed = [end for end in ended if end and (end.how, end.status) != (How.RETURNED, 0)]
            assert not failed, "\n".join(map(str, ended))
    a, b = (json.loads((folder / f"{name}.{RESULT}.json").read_text()) for name in NAMES)
    return a, b
