"""Random work on an SR with kills and failures at every step, against a model of its disks.

The whole stack runs: commands, collector, real images, real datapaths. After each rule every disk
must read as its users wrote it; at rest nothing may be left over, and the collector must come to
rest. `SM_EXAMPLES` sets how many runs, `SM_SEED` repeats one; a failure prints how to repeat it.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import tempfile
from collections import Counter
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sm.datapath.choose import Datapaths
from tests.datapath import clients
from tests.machine.faults import Fault, command
from tests.machine.model import GROWTH, UNIT, Model
from tests.support import guest, invariants
from tests.support.forked import Outcome
from tests.support.site import MIB, Site
from tests.support.tiers import SEED

pytestmark = pytest.mark.one_in(2)

SIZE = 4 * MIB
MOST_DISKS = 5
EXAMPLES = int(os.environ.get("SM_EXAMPLES", "3"))
STEPS = 20
MOST_RUNS = 8
"""So many runs of the collector must bring it to rest."""

numbers = st.integers(0, 99)
places = st.sampled_from(range(1, 31))
faults = st.one_of(
    st.builds(Fault, places),
    st.builds(Fault, places, st.sampled_from([errno.ENOSPC, errno.EIO, errno.EROFS])),
    st.none(),
)


class StorageMachine(RuleBasedStateMachine):
    """One SR; the rules are what users, hosts and fate do to it."""

    image_format: ClassVar[str]
    place: ClassVar[Path]
    ended: ClassVar[Counter[str]]

    @initialize()
    def begin(self) -> None:
        self.folder = Path(tempfile.mkdtemp(dir=self.place))
        self.site = Site(self.folder)
        self.sr = self.site.create_sr()
        self.model = Model()
        self.create(None)

    # What users do

    @precondition(lambda self: len(self.model.disks) < MOST_DISKS)
    @rule(fault=faults)
    def create(self, fault: Fault | None) -> None:
        given = ("--sr", self.sr, "--size", str(SIZE), "--format", self.image_format)
        outcome = self.sm(fault, "vdi", "create", *given)
        self.made(outcome, bytes(SIZE))

    @precondition(lambda self: self.model.disks)
    @rule(number=numbers, unit=numbers, count=st.integers(1, 12), byte=st.integers(1, 255))
    def write(self, number: int, unit: int, count: int, byte: int) -> None:
        uuid = self.model.pick(number)
        data = self.model.disks[uuid]
        start = unit % (len(data) // UNIT) * UNIT
        end = min(len(data), start + count * UNIT)
        active = uuid in self.model.uris
        if not active:
            self.activate(number, None)
        if uuid not in self.model.uris:
            return  # a snapshot, which nobody writes to
        write = f"write -P {byte} {start} {end - start}"
        clients.qemu_io(self.model.uris[uuid], write, "flush")
        data[start:end] = bytes([byte]) * (end - start)
        if not active:
            self.deactivate(number, None)

    @precondition(lambda self: 0 < len(self.model.disks) < MOST_DISKS)
    @rule(number=numbers, kind=st.sampled_from(["snapshot", "clone"]), fault=faults)
    def copy(self, number: int, kind: str, fault: Fault | None) -> None:
        uuid = self.model.pick(number)
        self.made(self.sm(fault, "vdi", kind, uuid), bytes(self.model.disks[uuid]))

    @precondition(lambda self: self.model.disks)
    @rule(number=numbers, fault=faults)
    def resize(self, number: int, fault: Fault | None) -> None:
        uuid = self.model.pick(number)
        if uuid in self.model.uris or uuid in self.model.perhaps_grown:
            return
        size = len(self.model.disks[uuid]) + GROWTH
        outcome = self.sm(fault, "vdi", "resize", uuid, "--size", str(size))
        if outcome.done:
            self.model.disks[uuid].extend(bytes(GROWTH))
        else:
            self.model.perhaps_grown.add(uuid)

    @precondition(lambda self: len(self.model.disks) > 1)
    @rule(number=numbers, fault=faults)
    def delete(self, number: int, fault: Fault | None) -> None:
        uuid = self.model.pick(number)
        if uuid in self.model.uris:
            outcome = self.sm(None, "vdi", "delete", uuid, refusal="VDIInUse")
            assert outcome.code == "VDIInUse"
            return
        outcome = self.sm(fault, "vdi", "delete", uuid)
        content = self.model.disks.pop(uuid)
        self.model.perhaps_grown.discard(uuid)
        if not outcome.done:
            self.model.perhaps_gone[uuid] = content

    @precondition(lambda self: self.model.disks)
    @rule(number=numbers, fault=faults)
    def activate(self, number: int, fault: Fault | None) -> None:
        uuid = self.model.pick(number)
        if uuid in self.model.uris:
            return
        if self.site.sm("vdi", "show", uuid)["is_a_snapshot"]:
            self.sm(fault, "vdi", "activate", uuid, "--read-only")
            self.sm(None, "vdi", "deactivate", uuid)
            return
        outcome = self.sm(fault, "vdi", "activate", uuid)
        if outcome.done:
            self.model.uris[uuid] = outcome.document["nbd"]
        else:
            self.sm(None, "vdi", "deactivate", uuid)

    @precondition(lambda self: self.model.uris)
    @rule(number=numbers, fault=faults)
    def deactivate(self, number: int, fault: Fault | None) -> None:
        uuid = sorted(self.model.uris)[number % len(self.model.uris)]
        if not self.sm(fault, "vdi", "deactivate", uuid).done:
            self.sm(None, "vdi", "deactivate", uuid)
        del self.model.uris[uuid]

    # What fate does

    @precondition(lambda self: self.model.uris)
    @rule(number=numbers)
    def datapath_dies(self, number: int) -> None:
        uuid = sorted(self.model.uris)[number % len(self.model.uris)]
        for served in Datapaths(self.site.repository(self.sr).settings).served():
            if served.disk.vdi == uuid:
                os.kill(served.endpoint.pid, signal.SIGKILL)
        self.sm(None, "vdi", "deactivate", uuid)
        del self.model.uris[uuid]

    # What the storage manager does

    @rule(fault=faults)
    def collect(self, fault: Fault | None) -> None:
        self.sm(fault, "gc", "run", "--sr", self.sr)

    @rule(fault=faults)
    def scan(self, fault: Fault | None) -> None:
        self.sm(fault, "sr", "scan", self.sr)

    @rule()
    def rest(self) -> None:
        """Without faults the collector comes to rest, and what was interrupted is settled."""
        for _ in range(MOST_RUNS):
            if not self.site.sm("gc", "run", "--sr", self.sr)["done"]:
                break
        else:
            raise AssertionError("the collector does not come to rest")
        repository = self.site.repository(self.sr)
        forest = repository.look("test").forest
        visible = [node.uuid for node in forest if not node.hidden]
        self.model.settle({uuid: self.content(uuid) for uuid in visible})
        assert repository.journal.entries() == []
        kept = repository.pool.sr_by_uuid(self.sr).sm_config
        assert not [key for key in kept if key.startswith(("coalescing-", "changing-"))]

    @invariant()
    def every_disk_reads_as_it_should(self) -> None:
        for uuid in self.model.disks:
            self.model.require(uuid, self.content(uuid))

    def teardown(self) -> None:
        if not hasattr(self, "model"):
            return
        try:
            for uuid in list(self.model.uris):
                self.sm(None, "vdi", "deactivate", uuid)
            self.model.uris.clear()
            self.rest()
            disks = {uuid: bytes(data) for uuid, data in self.model.disks.items()}
            invariants.check(self.site, self.sr, disks)
        finally:
            for served in Datapaths(self.site.repository(self.sr).settings).served():
                os.kill(served.endpoint.pid, signal.SIGKILL)
            shutil.rmtree(self.folder, ignore_errors=True)

    # How rules do it

    def sm(self, fault: Fault | None, *arguments: str, refusal: str = "") -> Outcome:
        """Run a command; without a fault it must succeed, but for the `refusal` that is named."""
        outcome = command(self.site.environment, arguments, fault)
        ended = "done" if outcome.done else "killed" if outcome.killed else "refused"
        self.ended[ended] += 1
        if fault is None and not refusal:
            assert outcome.done, (arguments, outcome)
        return outcome

    def made(self, outcome: Outcome, content: bytes) -> None:
        """Take note of a disk that a command made, or may have made."""
        if outcome.done:
            self.model.disks[outcome.document["uuid"]] = bytearray(content)
        else:
            self.model.perhaps_new.append(content)

    def content(self, uuid: str) -> bytes:
        """The whole disk, by readers of others where there are such."""
        if uuid in self.model.uris:
            size = clients.export_info(self.model.uris[uuid])["export-size"]
            return clients.content(self.model.uris[uuid], size)
        return bytes(guest.content(self.site.chain(self.sr, uuid)))


def test_random_work_with_faults(cow_format: str, tmp_path: Path) -> None:
    ended: Counter[str] = Counter()
    given = {"image_format": cow_format, "ended": ended, "place": tmp_path}
    machine = type("Machine", (StorageMachine,), given)
    print(f"SM_SEED={SEED}")
    seed(SEED)(run_state_machine_as_test)(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.generate, Phase.shrink],
        ),
    )
    print(f"commands: {dict(ended)}")
    assert ended["killed"] + ended["refused"] > 0
