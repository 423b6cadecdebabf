"""Run all benches or those named, and print one table."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.bench import (
    hostile,
    info,
    levels,
    loop,
    lvm,
    many,
    memory,
    merge,
    nbd,
    plugin,
    qemu,
    scan,
    vhd,
)
from tests.bench.measure import Row, table
from tests.bench.workshop import Workshop

BENCHES: Mapping[str, Callable[[Workshop], list[Row]]] = {
    "scan": scan.run,
    "loop": loop.run,
    "map": qemu.run_map,
    "check": qemu.run_check,
    "info": info.run,
    "hostile": hostile.run,
    "memory": memory.run,
    "vhd": vhd.run,
    "merge": merge.run,
    "levels": levels.run,
    "many": many.run,
    "lvm": lvm.run,
    "nbd": nbd.run,
    "plugin": plugin.run,
}


def main() -> int:
    """Returns 0 whatever was measured; a wrong result is an exception."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(BENCHES))
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--folder", type=Path, help="where the images are made; 4 GB")
    given = parser.parse_args()
    unknown = set(given.names) - set(BENCHES)
    if unknown:
        parser.error(f"no bench is called {', '.join(sorted(unknown))}")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=given.folder) as folder:
        workshop = Workshop(Path(folder))
        for name in given.names or BENCHES:
            began = time.monotonic()
            rows += BENCHES[name](workshop)
            print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr)
    if given.json:
        print(json.dumps([row.document() for row in rows], indent=2))
    else:
        print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
