"""How programs in different guests meet: through new files in a folder that they share.

A new name is seen by all at once. Locks of files are not: each guest's kernel keeps its own.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from tests.support.patience import patient

WAIT_SECONDS = patient(60)
RESULT = "result"


@dataclass(frozen=True)
class Meeting:
    """One participant's view; whatever is told is a JSON value, and is told once."""

    folder: Path
    name: str

    @classmethod
    def from_arguments(cls) -> Self:
        """As `run_two` starts a program: its arguments are the folder and its own name."""
        return cls(Path(sys.argv[1]), sys.argv[2])

    def tell(self, what: str, value: object = None) -> None:
        """Let the others know."""
        path = self._path(self.name, what)
        written = path.with_suffix(".new")
        written.write_text(json.dumps(value))
        written.rename(path)

    def hear(self, who: str, what: str) -> Any:
        """Wait until another has told it; raises TimeoutError after a minute."""
        path = self._path(who, what)
        deadline = time.monotonic() + WAIT_SECONDS
        while not path.exists():
            if time.monotonic() > deadline:
                raise TimeoutError(f"{self.name} waited for {who} to tell {what!r}")
            time.sleep(0.02)
        return json.loads(path.read_text())

    def _path(self, who: str, what: str) -> Path:
        return self.folder / f"{who}.{what}.json"
