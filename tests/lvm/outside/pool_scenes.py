"""What happens on the volume group that two hosts share: told from its master's side.

Whatever a disk must hold was written through its datapath, and is compared with what others read:
libnbd while it is in use, qemu-img afterwards, on the other host.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.lvm.outside.pool_host import PoolHost
from tests.support.patience import patient, until
from tests.support.site import MIB

SIZE = 16 * MIB


@dataclass(frozen=True)
class Scene:
    """The master, the other host (see `reach`), and the SR that both have attached."""

    master: PoolHost
    other: Any
    sr: str

    def collect(self) -> list[dict[str, Any]]:
        """Let the master's collector do all there is to do."""
        report = self.master.collect(self.sr)
        assert report["waiting"] == [], report
        done: list[dict[str, Any]] = report["done"]
        return done

    def end_writing_and_verify(self, disk: str) -> None:
        """Compare the disk that the other host uses with what its guest wrote, and remove it."""
        data = self.other.end_writing()
        uri = self.other.activate(disk)
        assert self.other.read(uri, SIZE) == data
        self.other.deactivate(disk)
        for host in (self.master, self.other):
            assert host.read_chain(self.sr, disk) == data
        self.verify_tidy(disk)
        self.master.delete(disk)
        assert [step["action"] for step in self.collect()] == ["delete"]
        # What another host has removed is taken away here at the next use of the group.
        assert "removed" in self.other.mapped(self.sr)
        self.verify_tidy()

    def verify_tidy(self, *disks: str) -> None:
        """Nothing is left but these disks, each of one image; both hosts map what is there."""
        repository = self.master.repository(self.sr)
        assert repository.journal.entries() == []
        assert repository.store.unfinished() == ()
        assert self.master.images(self.sr) == set(disks)
        for host in (self.master, self.other):
            host.follow(self.sr)
            assert "removed" not in host.mapped(self.sr)


def merges_below_and_of_the_leaf(scene: Scene, image_format: str) -> None:
    """While a guest writes on the other host: the image between is merged, and then the leaf."""
    master, other = scene.master, scene.other
    disk = master.create_vdi(scene.sr, image_format, SIZE)
    other.begin_writing(other.activate(disk), bytes(SIZE))
    other.go_on(5)
    first = master.snapshot(disk)
    other.go_on(5)
    second = master.snapshot(disk)
    other.go_on(5)
    master.delete(first)
    done = scene.collect()
    assert [step["action"] for step in done] == ["delete", "coalesce"], done
    assert done[1]["through"] == (disk if image_format == "qcow2" else None), done
    other.go_on(5)
    master.delete(second)
    done = scene.collect()
    assert "leaf-coalesce" in [step["action"] for step in done], done
    other.go_on(5)
    scene.end_writing_and_verify(disk)


def qcow2_in_use_on_the_other(scene: Scene) -> None:
    merges_below_and_of_the_leaf(scene, "qcow2")


def vhd_in_use_on_the_other(scene: Scene) -> None:
    merges_below_and_of_the_leaf(scene, "vhd")


def in_use_on_one_after_the_other(scene: Scene) -> None:
    """What the other host has seen of a disk is not what it shows after the master has used it."""
    master, other = scene.master, scene.other
    disk = master.create_vdi(scene.sr, "qcow2", SIZE)
    other.begin_writing(other.activate(disk), bytes(SIZE))
    other.go_on(5)
    data = other.end_writing()
    other.deactivate(disk)
    uri = master.activate(disk)
    assert master.read(uri, SIZE) == data
    master.begin_writing(uri, data)
    master.go_on(5)
    master.delete(master.snapshot(disk))
    master.go_on(5)
    assert "leaf-coalesce" in [step["action"] for step in scene.collect()]
    data = master.end_writing()
    master.deactivate(disk)
    uri = other.activate(disk)
    assert other.read(uri, SIZE) == data
    other.begin_writing(uri, data)
    scene.end_writing_and_verify(disk)


def master_service_killed(scene: Scene, how: str) -> None:
    """Between the question and the answer: the guest waits for the master, and then goes on."""
    master, other = scene.master, scene.other
    disk = _with_a_merge_to_come(scene)
    master.start_dying(how)
    report = master.collect(scene.sr)
    assert [step["action"] for step in report["done"]] == ["delete"], report
    _require_held(scene)
    assert master.was_killed()
    master.start()
    done = master.collect(scene.sr)["done"]
    assert "leaf-coalesce" in [step["action"] for step in done] or how == "killed-after"
    other.go_on(5)
    scene.end_writing_and_verify(disk)


def master_service_killed_before(scene: Scene) -> None:
    master_service_killed(scene, "killed-before")


def master_service_killed_after(scene: Scene) -> None:
    master_service_killed(scene, "killed-after")


def master_service_stopped(scene: Scene) -> None:
    """It stands still before it renames, and goes on a little later: so does the guest."""
    master, other = scene.master, scene.other
    disk = _with_a_merge_to_come(scene)
    master.start_dying("stopped")
    assert master.service is not None
    pid = master.service.pid
    collector = master.start_collector(scene.sr)
    stat = Path(f"/proc/{pid}/stat")
    until(lambda: b") T " in stat.read_bytes(), "that it stands still")
    _require_held(scene)
    os.kill(pid, signal.SIGCONT)
    _, said = collector.communicate(timeout=patient(60))
    assert collector.returncode == 0, said
    other.go_on(5)
    scene.end_writing_and_verify(disk)


def _with_a_merge_to_come(scene: Scene) -> str:
    """A disk in use on the other host, whose leaf is to be merged into the image below it."""
    master, other = scene.master, scene.other
    disk = master.create_vdi(scene.sr, "qcow2", SIZE)
    other.begin_writing(other.activate(disk), bytes(SIZE))
    other.go_on(5)
    master.delete(master.snapshot(disk))
    other.go_on(5)
    return disk


def _require_held(scene: Scene) -> None:
    """The guest on the other host waits: at most the round that it was in comes to its end."""
    before = scene.other.rounds()
    time.sleep(1)
    assert scene.other.rounds() <= before + 1
    before = scene.other.rounds()
    time.sleep(1)
    assert scene.other.rounds() == before


SCENES: Mapping[str, Callable[[Scene], None]] = {
    scene.__name__: scene
    for scene in (
        qcow2_in_use_on_the_other,
        vhd_in_use_on_the_other,
        in_use_on_one_after_the_other,
        master_service_killed_before,
        master_service_killed_after,
        master_service_stopped,
    )
}
