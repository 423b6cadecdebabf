"""`sm explain`: an error code, a reason of the collector or a finding of the doctor, in words."""

from __future__ import annotations

import json
from argparse import Namespace
from functools import cache
from importlib.resources import files

from sm.cli.admin import Admin
from sm.doctor.finding import finding_codes
from sm.errors import InvalidArgument, code_table


@cache
def reasons() -> dict[str, dict[str, str]]:
    """Why the collector lets something wait: code to text and advice."""
    table: dict[str, dict[str, str]] = json.loads(
        files("sm").joinpath("etc", "reason_codes.json").read_text(encoding="utf-8")
    )
    return table


def explain(admin: Admin, options: Namespace) -> None:
    """What a code means."""
    wanted = options.code.removeprefix("SR_BACKEND_FAILURE_")
    for name, entry in code_table().items():
        if wanted in (name, str(entry["code"])):
            text = f"{entry['code']} {name}: {entry['text']}\n    {entry['advice']}"
            admin.output.result({"name": name, **entry}, text)
            return
    reason = reasons().get(wanted) or finding_codes().get(wanted)
    if reason is None:
        raise InvalidArgument(f"there is no code {options.code!r}")
    text = f"{wanted}: {reason['text']}\n    {reason['advice']}"
    admin.output.result({"name": wanted, **reason}, text)
