"""Mending an image without a guess at guest data.

What follows from the tables may be rewritten: refcounts, copied flags, the dirty and corrupt marks.
A table entry that cannot be right may not: nobody knows what it was, and `qemu-img check -r all`
would drop what it pointed to. As long as there is one, not even leaks are freed, because the
clusters that seem unused may be the ones that the broken entry meant.
"""

from __future__ import annotations

from pathlib import Path

from sm.cowutil.base import CheckReport, ToolRunner
from sm.cowutil.qcow2 import tool
from sm.cowutil.qcow2.check import check_image
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.source import Source
from sm.cowutil.raw import sync_file


def repair_image(runner: ToolRunner, path: Path) -> CheckReport:
    """Repair what may be, durably; gives what then remains.

    A crash leaves the image as it was or partly mended; the repair may be repeated.
    """
    findings = check_image(path)
    if findings.tables.count:
        return findings.report()
    with Source(path) as source:
        marked = bool(read_header(source).marks)
    if findings.counts.count or marked:
        what = "all"
    elif findings.leaks.count:
        what = "leaks"
    else:
        return findings.report()
    argv = tool.repair_argv(path, what)
    tool.run_tool(runner, path, argv, timeout=tool.CHECK_TIMEOUT, accept=(0, 2, 3))
    sync_file(path)
    return check_image(path).report()
