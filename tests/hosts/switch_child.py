"""Does one request about a leaf, as `sm-hostd` does, and kills itself with SIGKILL at a step of it.

usage: switch_child.py ROOT STEP REQUEST        REQUEST: JSON, the arguments of `leaf_switch`
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from sm import config
from sm.hosts.actions import perform
from sm.pool.open import open_pool
from sm.repository import Repository


def main() -> None:
    root, stop_at, request = sys.argv[1:4]

    def observe(step: str) -> None:
        if step == stop_at:
            os.kill(os.getpid(), signal.SIGKILL)

    settings = config.load(Path(root))
    arguments = json.loads(request)
    pool = open_pool(settings, None)
    perform(
        Repository.open(arguments["sr_uuid"], settings, pool, observe), "leaf_switch", arguments
    )


if __name__ == "__main__":
    main()
