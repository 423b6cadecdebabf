"""`sm-hostd` of a master that gets a signal when it is asked to rename a leaf.

usage: dying_hostd.py ROOT HOW
HOW: `killed-before` or `killed-after` it has renamed; `stopped` before, and it goes on some time.
"""

from __future__ import annotations

import os
import signal
import sys

from sm.hosts import naming, service
from sm.repository import Repository

as_master = naming.supersede_as_master


def main() -> int:
    """Serve as the real one does, but for that one request."""
    root, how = sys.argv[1:3]

    def dying(repository: Repository, vdi_uuid: str, claim: str) -> None:
        if how == "stopped":
            os.kill(os.getpid(), signal.SIGSTOP)
        if how != "killed-before":
            as_master(repository, vdi_uuid, claim)
        if how != "stopped":
            os.kill(os.getpid(), signal.SIGKILL)

    naming.supersede_as_master = dying
    return service.main(["--root", root])


if __name__ == "__main__":
    sys.exit(main())
