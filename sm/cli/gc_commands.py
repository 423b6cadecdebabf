"""`sm gc run`: collect now, whoever does it."""

from __future__ import annotations

from argparse import Namespace

from sm.cli import gc_run
from sm.cli.admin import Admin
from sm.cli.gc_plan import dry_run


def run(admin: Admin, options: Namespace) -> None:
    """Delete and merge until nothing is left to do, or only say what would be done."""
    repository = admin.repository(admin.find_sr(options.sr))
    if options.dry_run:
        dry_run(admin, repository)
        return
    gc_run.collect(admin, repository)
