"""How results reach the caller: one JSON document, or text for people; errors say what to do."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from sm.cowutil.base import Progress, no_progress
from sm.errors import SmError


class Output:
    """Writes to standard output; with `as_json`, exactly one JSON document and nothing else."""

    def __init__(self, *, as_json: bool) -> None:
        self.as_json = as_json

    def result(self, document: Any, text: str) -> None:
        """Give `document` as JSON, or `text` (nothing when it is empty) for people."""
        if self.as_json:
            encoding = (getattr(sys.stdout, "encoding", None) or "utf-8").lower()
            escaped = encoding not in ("utf-8", "utf8")
            text = json.dumps(document, indent=2, ensure_ascii=escaped)
            sys.stdout.write(printable(text) + "\n")
        elif text:
            sys.stdout.write(printable(text.rstrip("\n")) + "\n")

    def table(self, rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> None:
        """Give rows as JSON, or as a table of `columns` (key to heading) for people."""
        self.result(list(rows), "" if self.as_json else table(rows, columns))

    def failure(self, error: SmError) -> None:
        """Say what is wrong and what to do."""
        detail = f": {error.detail}" if error.detail else ""
        self._say(
            error,
            f"sm: {error.text}{detail}\n    {error.advice}\n    (sm explain {error.code_name})",
        )

    def misused(self, error: SmError, usage: str) -> None:
        """Say what is wrong with the command line."""
        self._say(error, usage)

    def interrupted(self, error: SmError) -> None:
        """Say that the command was ended from outside."""
        self._say(error, f"sm: {error.text}")

    def defect(self, error: SmError, place: str) -> None:
        """Say that something is wrong with the program; `place`: where the details are."""
        error.detail = f"{error.detail}; the details are in {place}"
        self._say(error, f"sm: {error.text} ({error.code_name}): {error.detail}")

    def _say(self, error: SmError, text: str) -> None:
        if not self.as_json:
            sys.stderr.write(printable(text) + "\n")
            return
        document = {
            "code": error.code,
            "name": error.code_name,
            "message": error.fault_string,
            "detail": error.detail,
            "advice": error.advice,
        }
        self.result({"error": document}, "")

    @contextmanager
    def progress(self, title: str) -> Iterator[Progress]:
        """A progress bar on a terminal; silence in a pipe and with JSON."""
        if self.as_json or not sys.stderr.isatty():
            yield no_progress
            return
        # rich takes 50 ms to import, and only a terminal shows a bar.
        from rich import progress  # noqa: PLC0415
        from rich.console import Console  # noqa: PLC0415

        columns = (
            progress.TextColumn("{task.description}"),
            progress.BarColumn(),
            progress.DownloadColumn(binary_units=True),
            progress.TransferSpeedColumn(),
            progress.TimeRemainingColumn(),
        )
        with progress.Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def printable(text: str) -> str:
    """The same, with what no encoding has (file names of other bytes) as JSON would escape it."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8")


def table(rows: Sequence[Mapping[str, Any]], columns: Mapping[str, str]) -> str:
    """Plain columns, as wide as their widest cell; numbers to the right."""
    if not rows:
        return ""
    cells = [[_cell(row.get(key)) for key in columns] for row in rows]
    lines = [list(columns.values()), *cells]
    widths = [max(len(line[index]) for line in lines) for index in range(len(columns))]
    right = [isinstance(rows[0].get(key), int) for key in columns]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if to_right else cell.ljust(width)
            for cell, width, to_right in zip(line, widths, right, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
