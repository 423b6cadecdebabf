"""`make test` again and again, with other samples, while other work takes all CPUs and the disk.

`python -m tests.soak.again [REPEATS]`. Ends at the first run that fails, with its status.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.tiers import ROOT, SEED

REPEATS = 3

BUSY = "while True: pass"
WRITING = """
import os, sys
while True:
    with open(sys.argv[1], "wb") as file:
        for _ in range(64):
            file.write(bytes(1 << 20))
            os.fsync(file.fileno())
"""


@contextmanager
def load() -> Iterator[None]:
    """As many busy processes as there are CPUs, and one that writes and syncs."""
    with tempfile.NamedTemporaryFile() as file:
        words = [("-c", BUSY)] * (os.cpu_count() or 1) + [("-c", WRITING, file.name)]
        started = [subprocess.Popen([sys.executable, "-I", *word]) for word in words]
        try:
            yield
        finally:
            for process in started:
                process.kill()
                process.wait()


def main() -> int:
    """Repeat; returns the first status that is not zero."""
    repeats = int(sys.argv[1]) if len(sys.argv) > 1 else REPEATS
    status = 0
    with load():
        for number in range(repeats):
            seed = str(SEED + number)
            print(f"make test under load, {number + 1} of {repeats}: SM_SEED={seed}", flush=True)
            own = {**os.environ, "SM_TIER": "test", "SM_SEED": seed}
            for name in ("SM_ROUNDS", "SM_EXAMPLES", "SM_SECONDS", "SM_PROCESSES"):
                own.pop(name, None)
            command = [sys.executable, "-m", "tests.run"]
            status = subprocess.run(command, cwd=ROOT, env=own, check=False).returncode
            if status:
                break
    return status


if __name__ == "__main__":
    sys.exit(main())
