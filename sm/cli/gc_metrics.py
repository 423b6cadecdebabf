"""`sm gc metrics`: figures for Prometheus, as text, as a file, or served."""

from __future__ import annotations

import signal
import sys
import threading
from argparse import Namespace
from pathlib import Path
from types import FrameType
from typing import Any

from sm.cli.admin import Admin
from sm.errors import InvalidArgument


def metrics(admin: Admin, options: Namespace) -> None:
    """Figures of all SRs for Prometheus: on standard output, into a file, or served over HTTP.

    --output replaces the file whole, for the textfile collector of node_exporter. --listen answers
    until it is interrupted; on this machine only, unless a host is named.
    """
    # prometheus_client takes 60 ms to import, and no other command needs it.
    from sm.gc.views import exporter  # noqa: PLC0415

    if options.output and options.listen:
        raise InvalidArgument("--output and --listen exclude each other")
    if options.listen:
        with exporter.serve(admin.settings, exporter.Address.parse(options.listen)) as address:
            admin.output.result({"address": str(address)}, f"serving at {address}")
            sys.stdout.flush()  # whoever started us waits for it
            _wait()
    elif options.output:
        exporter.write(admin.settings, Path(options.output))
        admin.output.result({"output": str(options.output)}, "")
    elif admin.output.as_json:
        registry = exporter.registry(admin.settings)
        admin.output.result([_family(family) for family in registry.collect()], "")
    else:
        admin.output.result(None, exporter.text(admin.settings).decode("utf-8"))


def _family(family: Any) -> dict[str, Any]:
    return {
        "name": family.name,
        "type": family.type,
        "help": family.documentation,
        "samples": [
            {"name": each.name, "labels": dict(each.labels), "value": each.value}
            for each in family.samples
        ],
    }


def _wait() -> None:
    """Until SIGINT or SIGTERM."""
    told = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        told.set()

    signal.signal(signal.SIGINT, stop)
    signal.signal(signal.SIGTERM, stop)
    told.wait()
