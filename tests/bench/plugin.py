"""How long a driver takes to start and answer, against Python itself."""

from __future__ import annotations

import subprocess
import sys

from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop
from tests.support.plugin import Plugin
from tests.support.site import Site

VDIS = 10


def run(workshop: Workshop) -> list[Row]:
    """`FileSR` as XAPI calls it, with the pool database that is ours."""
    folder = workshop.folder / "plugin"
    folder.mkdir()
    site = Site(folder)
    sr = site.create_sr()
    for _ in range(VDIS):
        site.create_vdi(sr, "qcow2")
    pool = site.repository(sr).pool
    config = {"location": str(folder / "store"), "SRmaster": "true"}
    members = {
        "host_ref": pool.this_host().ref,
        "session_ref": "OpaqueRef:22222222-bbbb-4bbb-8bbb-000000000002",
        "device_config": config,
        "sr_ref": pool.sr_by_uuid(sr).ref,
        "sr_uuid": sr,
        "subtask_of": "OpaqueRef:44444444-dddd-4ddd-8ddd-000000000004",
        "local_cache_sr": "",
    }
    plugin = Plugin(site.root, members=members, started=True)
    works = {
        "python": lambda: subprocess.run([sys.executable, "-c", "pass"], check=True),
        "info": lambda: plugin.call("sr_get_driver_info"),
        "scan": lambda: plugin.call("sr_scan"),
    }
    taken = in_turn(works, repeat=7)
    against = "python3 -c pass"
    limit = Target.within(3)
    what = f"sr_scan of {VDIS} images"
    return [
        Row("plugin", "sr_get_driver_info", taken["info"], against, taken["python"], limit),
        Row("plugin", what, taken["scan"], against, taken["python"], limit),
    ]
