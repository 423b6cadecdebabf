"""A result that is looked at again and again, and shown anew whenever it has changed."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from sm.cli.output import Output

LOOK_SECONDS = 0.5

Look = Callable[[], tuple[Any, str]]
"""Gives the present result as a document and as text."""


def watch(output: Output, look: Look) -> None:
    """Show what `look` gives until interrupted (ctrl-C), which is its proper end.

    With JSON one document on a line for each change; on a terminal one picture that is redrawn;
    into a pipe each text after the last, with an empty line between.
    """
    with suppress(KeyboardInterrupt):
        if output.as_json:
            _lines(lambda: json.dumps(look()[0], ensure_ascii=False))
        elif sys.stdout.isatty():
            _redraw(lambda: look()[1])
        else:
            _lines(lambda: f"{look()[1]}\n")


def _lines(look: Callable[[], str]) -> None:
    last = None
    while True:
        text = look()
        if text != last:
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()
            last = text
        time.sleep(LOOK_SECONDS)


def _redraw(look: Callable[[], str]) -> None:
    # rich takes 50 ms to import, and only a terminal shows a picture.
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    with Live(Text(look()), auto_refresh=False) as live:
        while True:
            live.update(Text(look()), refresh=True)
            time.sleep(LOOK_SECONDS)
