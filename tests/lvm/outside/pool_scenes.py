"""What happens on the volume group that two hosts share: told from its master's side.

Whatever a disk must hold was written through its datapath, and is compared with what others read:
libnbd while it is in use, qemu-img afterwards, on the other host.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from tests.lvm.outside.pool_host import PoolHost
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

    def verify_tidy(self, *disks: str) -> None:
        """Nothing is left but these disks, each of one image; both hosts see the volumes as are."""
        repository = self.master.repository(self.sr)
        assert repository.journal.entries() == []
        assert repository.store.unfinished() == ()
        assert self.master.images(self.sr) == set(disks)
        for host in (self.master, self.other):
            host.follow(self.sr)
            assert "removed" not in host.mapped(self.sr)


def layered(scene: Scene, user: Any, disk: str) -> tuple[str, str]:
    """Let a guest write to a disk on `user`, with two snapshots meanwhile; returns these."""
    user.begin_writing(user.activate(disk), bytes(SIZE))
    user.go_on(10)
    first = scene.master.snapshot(disk)
    user.go_on(10)
    second = scene.master.snapshot(disk)
    user.go_on(10)
    return first, second


def merges_below_and_of_the_leaf(scene: Scene, user: Any, image_format: str) -> None:
    """While a guest writes on `user`: the image between is merged, and then the leaf."""
    reader = scene.other if user is scene.master else scene.master
    disk = scene.master.create_vdi(scene.sr, image_format, SIZE)
    first, second = layered(scene, user, disk)
    scene.master.delete(first)
    done = scene.collect()
    assert [step["action"] for step in done] == ["delete", "coalesce"], done
    assert done[1]["through"] == (disk if image_format == "qcow2" else None), done
    user.go_on(10)
    scene.master.delete(second)
    done = scene.collect()
    assert "leaf-coalesce" in [step["action"] for step in done], done
    user.go_on(10)
    data = user.end_writing()
    uri = user.activate(disk)
    assert user.read(uri, SIZE) == data
    user.deactivate(disk)
    assert reader.read_chain(scene.sr, disk) == data
    assert user.read_chain(scene.sr, disk) == data
    scene.verify_tidy(disk)
    scene.master.delete(disk)
    scene.collect()
    scene.verify_tidy()


def qcow2_in_use_on_the_other(scene: Scene) -> None:
    merges_below_and_of_the_leaf(scene, scene.other, "qcow2")


def vhd_in_use_on_the_other(scene: Scene) -> None:
    merges_below_and_of_the_leaf(scene, scene.other, "vhd")


def qcow2_in_use_on_the_master(scene: Scene) -> None:
    merges_below_and_of_the_leaf(scene, scene.master, "qcow2")


SCENES: tuple[Callable[[Scene], None], ...] = (
    qcow2_in_use_on_the_other,
    qcow2_in_use_on_the_master,
    vhd_in_use_on_the_other,
)
