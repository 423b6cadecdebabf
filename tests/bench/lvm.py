"""A volume group as it is read by us and by LVM, and LVM's commands with our settings.

The group is made on a loop device without a device-mapper: its metadata is written by LVM from a
text in which there are so many volumes, none of them active.
"""

from __future__ import annotations

import os
import re
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sm.volumes.lvm.commands import ENVIRONMENT
from sm.volumes.lvm.devices import Devices
from sm.volumes.lvm.metadata import dashed
from tests.bench.measure import Row, Target, in_turn
from tests.bench.workshop import Workshop
from tests.support.lvm.loop import attached
from tests.support.site import MIB

GROUP = "sm-bench"
EXTENT = 4 * MIB
COUNTS = (10, 1000)


def run(workshop: Workshop) -> list[Row]:
    """Listing by both, and one command by settings."""
    if os.geteuid() != 0:
        return [Row("lvm", "list volumes (needs root)", 0.0, "lvs", None)]
    rows: list[Row] = []
    for count in COUNTS:
        with _group(workshop.folder / f"lvm-{count}", count) as device:
            command = ["lvs", "--devices", str(device), "--reportformat", "json", GROUP]

            def theirs(command: list[str] = command) -> None:
                subprocess.run(["lvm", *command], check=True, capture_output=True)

            def with_ours(command: list[str] = command) -> None:
                subprocess.run(
                    ["lvm", *command],
                    check=True,
                    capture_output=True,
                    env={**os.environ, **ENVIRONMENT},
                )

            def ours(device: Path = device, count: int = count) -> None:
                assert len(Devices([device], GROUP).group().volumes) == count

            took = in_turn({"ours": ours, "lvs": theirs, "settings": with_ours})
            target = Target.faster(5)
            rows.append(
                Row("lvm", f"list {count} volumes", took["ours"], "lvs", took["lvs"], target)
            )
            if count == COUNTS[0]:
                target = Target.within(0.6)
                rows.append(
                    Row("lvm", "lvs", took["settings"], "host's settings", took["lvs"], target)
                )
    return rows


@contextmanager
def _group(file: Path, count: int) -> Iterator[Path]:
    """A volume group with so many volumes of one extent; gives its device."""
    text = file.with_suffix(".text")
    with attached(file, (count + 32) * EXTENT) as disk:
        device = str(disk.device)
        only = ("--devices", device)
        _tool("lvm", "vgcreate", "-y", *only, "--metadatasize", "16m", GROUP, device)
        _tool("lvm", "vgcfgbackup", *only, "-f", str(text), GROUP)
        text.write_text(_with_volumes(text.read_text(), count))
        _tool("lvm", "vgcfgrestore", "-y", *only, "-f", str(text), GROUP)
        yield disk.device


def _with_volumes(text: str, count: int) -> str:
    """The description of a group with volumes added to it."""
    volumes = "".join(_volume(number) for number in range(count))
    return re.sub(r"\n}\n", f"\nlogical_volumes {{\n{volumes}}}\n}}\n", text, count=1)


def _volume(number: int) -> str:
    identity = uuid.UUID(int=number).hex
    return (
        f'QCOW2-{uuid.UUID(int=number)} {{\nid = "{dashed(identity)}"\n'
        'status = ["READ", "WRITE", "VISIBLE"]\nflags = []\nsegment_count = 1\n'
        'segment1 {\nstart_extent = 0\nextent_count = 1\ntype = "striped"\nstripe_count = 1\n'
        f'stripes = ["pv0", {number}]\n}}\n}}\n'
    )


def _tool(*command: str) -> str:
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return done.stdout
