"""Programs as whole processes, with faults from outside."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping

from tests.support.patience import patient


def program(faults: Mapping[str, str], *argv: str) -> subprocess.CompletedProcess[str]:
    """Run a program to its end, without judging how it ends."""
    return subprocess.run(
        argv,
        env={**os.environ, **faults, "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=False,
        timeout=patient(60),
    )
