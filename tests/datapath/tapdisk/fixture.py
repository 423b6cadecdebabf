"""A tapdisk to test with, ours or a real one, and chains for it."""

from __future__ import annotations

import json
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from sm.config import TAPDISK_CONTROL
from sm.cowutil.base import ImageRef
from sm.cowutil.qcow2.util import Qcow2Util
from sm.datapath.base import Disk, Job, JobState
from sm.datapath.tapdisk.control import Control
from sm.datapath.tapdisk.datapath import TapdiskDatapath
from sm.datapath.tapdisk.life import Patience
from sm.process import run
from tests.cowutil.contract.subjects import qemu_content
from tests.cowutil.contract.subjects import qemu_io as write_offline
from tests.datapath.vhd_nbd import chains as vhd
from tests.support.patience import patient, until

SIZE = vhd.SIZE
MIB = 1 << 20
DISK = Disk("11111111-1111-4111-8111-111111111111", "22222222-2222-4222-8222-222222222222")
REAL = "SM_TEST_TAPDISK"
ROOT = Path(__file__).parents[3]
PATIENCE = Patience(
    start=patient(30),
    answer=patient(10),
    open=patient(60),
    pause=patient(20),
    resume=patient(60),
    close=patient(60),
    stop=patient(20),
    poll=0.05,
    slowest_poll=0.2,
)
"""Where nothing is to run out of time; asked often, because ours answers at once."""

SOON_UNANSWERED = replace(PATIENCE, answer=patient(0.25), close=patient(0.25))
"""For a tapdisk that is about to hang: the last thing that it says must still come in time."""

QCOW2 = Qcow2Util(run)


class Tapdisk:
    """A binary, its control directory, and a datapath over both.

    `root` holds what the tests make; a double's control directory is there too.
    """

    def __init__(self, root: Path, real: Path | None = None) -> None:
        self.real = real is not None
        self.folder = root / "run"
        self.images = root / "images"
        self.images.mkdir()
        self._faults = root / "faults.json"
        if real is not None:
            self.control, self.binary = TAPDISK_CONTROL, str(real)
        else:
            self.control, self.binary = root / "ctl", str(self._script(root))
            self.control.mkdir()

    def datapath(
        self,
        folder: Path | None = None,
        *,
        merges_into_parent: bool = True,
        patience: Patience = PATIENCE,
    ) -> TapdiskDatapath:
        """A datapath, as after a restart of ours; with `folder`, that of somebody else."""
        if self.real:
            patience = replace(Patience(), poll=1.0, slowest_poll=2.0)
        return TapdiskDatapath(
            folder or self.folder,
            control=self.control,
            binary=self.binary,
            merges_into_parent=merges_into_parent,
            patience=patience,
        )

    def misbehave(self, **faults: int) -> None:
        """From now on; see `double.vbd` for what there is. Nothing named: all is well again."""
        assert not self.real, "a real tapdisk does not do wrong on demand: mark it double_only"
        partial = self._faults.with_suffix(".new")
        partial.write_text(json.dumps(faults))
        partial.replace(self._faults)

    def requests(self, number: int) -> int:
        """How many requests of a kind the double had."""
        return (self.control / "double.log").read_text().count(f"request {number}\n")

    def end(self) -> None:
        """Close everything that was left open."""
        self._faults.unlink(missing_ok=True)
        datapath = self.datapath()
        for served in datapath.served():
            datapath.close(served.disk)

    def chain(self, image_format: str, *names: str) -> tuple[list[ImageRef], bytearray]:
        """A chain, base first in `names`, uppermost first in the result, and what it reads as.

        Each 64 KiB hold one byte over and over, as `clients.Writer` wants it.
        """
        if image_format == "vhd":
            return vhd.chain_of(self.images, *names, plain=True)
        made: list[ImageRef] = []
        model = bytearray(SIZE)
        for number, name in enumerate(names):
            ref = ImageRef(self.images / f"{name}.{image_format}", image_format)
            if image_format == "raw":
                ref.path.write_bytes(bytes(SIZE))
            elif made:
                QCOW2.snapshot(ref.path, made[0], SIZE)
            else:
                QCOW2.create(ref.path, SIZE)
            made.insert(0, ref)
            dice = random.Random(number)
            commands = []
            for _ in range(6):
                length = dice.randrange(1, 12) << 16
                at = dice.randrange((SIZE - length) >> 16) << 16
                byte = dice.randrange(1, 256)
                commands.append(f"write -P {byte} {at} {length}")
                model[at : at + length] = bytes([byte]) * length
            write_offline(made, *commands)
        return made, model

    def _script(self, root: Path) -> Path:
        """The double as a command."""
        command = [
            *("env", f"PYTHONPATH={ROOT}", "OPENBLAS_NUM_THREADS=1"),
            *(sys.executable, "-m", "tests.datapath.tapdisk.double.main"),
            *(str(root / "ctl"), str(self._faults)),
        ]
        script = root / "tapdisk"
        script.write_text(f"#!/bin/sh\ncd {shlex.quote(str(ROOT))}\nexec {shlex.join(command)}\n")
        script.chmod(0o755)
        return script


def served_content(uri: str) -> bytes:
    """The whole disk by libnbd's copying tool, which is told not to ask for block status."""
    ended = subprocess.run(
        ["nbdcopy", "--no-extents", uri, "-"], capture_output=True, check=True, timeout=patient(60)
    )
    assert len(ended.stdout) == SIZE
    return ended.stdout


def closed_content(chain: Sequence[ImageRef]) -> bytes:
    """A chain that nobody has open, by somebody else's reader."""
    if chain[0].format == "vhd":
        return vhd.independent_content(chain)
    return qemu_content(chain)


def is_free(image: ImageRef) -> bool:
    """Whether no process has a QCOW2 image open, by qemu's lock."""
    look = ["qemu-img", "info", "-f", image.format, str(image.path)]
    return subprocess.run(look, check=False, capture_output=True).returncode == 0


def check(chain: Sequence[ImageRef]) -> None:
    """Every image is sound."""
    vhd.check(chain)
    for each in chain:
        if each.format == "qcow2":
            subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", each.path], check=True)


def end_of(datapath: TapdiskDatapath) -> Job:
    """Poll the commit to its end."""

    def ended() -> Job | None:
        job = datapath.job(DISK)
        assert job is not None
        return None if job.state is JobState.RUNNING else job

    job = until(ended, "the end of the commit")
    assert job is not None
    return job


def parent_of(image: ImageRef) -> str:
    """The name of its parent, on disk."""
    link = QCOW2.info(image.path).parent
    assert link is not None
    return link.name


def control_of(tapdisk: Tapdisk, datapath: TapdiskDatapath) -> Control:
    """The control socket of the disk's tapdisk."""
    found = datapath.find(DISK)
    assert found is not None
    return Control(tapdisk.control / f"ctl{found.endpoint.pid}", PATIENCE.answer)


def kinds() -> list[object]:
    """What a fixture makes: the double, and a real tapdisk where `SM_TEST_TAPDISK` names one."""
    return ["double", "real"] if REAL in os.environ else ["double"]


def make(kind: str, folder: Path) -> Tapdisk:
    """The tapdisk of such a parameter."""
    return Tapdisk(folder, Path(os.environ[REAL]) if kind == "real" else None)
