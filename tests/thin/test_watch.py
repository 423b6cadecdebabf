"""Watching a real daemon on files: a volume whose size is only said, a master that is played."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.datapath.base import Level
from sm.datapath.qsd import gauge as gauge_module
from sm.datapath.qsd.datapath import QsdDatapath
from sm.errors import HostUnreachable, SmError, SrNoSpace
from sm.thin.giver import Waits
from sm.thin.marks import Marks, Trouble
from sm.thin.watch import Watch
from tests.datapath.clients import Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK
from tests.support.patience import patient, until

MIB = 1 << 20
MARKS = Marks(4 * MIB)


class Master:
    """Gives room out of `free` bytes, as long as it answers."""

    def __init__(self) -> None:
        self.size = MARKS.spare
        self.free = 0
        self.answers = True
        self.asked = 0
        self.said: list[Waits | None] = []

    def full_size(self) -> int:
        return 64 * MIB

    def give(self, wanted: int, level: Level) -> None:
        self.asked += 1
        if not self.answers:
            raise HostUnreachable("silence")
        if wanted - self.size > self.free:
            raise SrNoSpace("it is full")
        self.free -= wanted - self.size
        self.size = wanted

    def tell(self, waits: Waits | None) -> None:
        self.said.append(waits)

    @property
    def trouble(self) -> Trouble | None:
        """What people were told last that users wait for."""
        return self.said[-1].trouble if self.said and self.said[-1] is not None else None


class Scene:
    """A served disk whose volume is the master's `size` long, watched."""

    def __init__(self, folder: Path, master: Master) -> None:
        self.subject = Qsd(folder)
        self.chain, self.model = self.subject.chain("a")
        self.chain = self.subject.add_leaf(self.chain, "b")
        self.datapath = QsdDatapath(folder / "run")
        self.endpoint = self.datapath.open(DISK, self.chain, read_only=False, pace=MARKS.pace)
        self.master = master
        self.taken_up = threading.Event()
        self.watch = self.watched()

    def watched(self) -> Watch:
        watch = Watch(DISK, self.datapath, self.master, MARKS, self.taken_up.set)
        watch.start()
        assert self.taken_up.wait(patient(30))
        return watch

    def used(self) -> int:
        return self.chain[0].path.stat().st_size

    def verify(self, writer: Writer) -> None:
        assert content(self.endpoint.nbd, SIZE) == writer.data
        assert self.used() <= self.master.size
        self.datapath.close(DISK)
        until(lambda: self.watch.ended)
        assert self.master.said[-1] is None
        assert self.subject.content(self.chain) == writer.data


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    master = Master()
    monkeypatch.setattr(gauge_module, "volume_size", lambda identity: master.size)
    made = Scene(tmp_path, master)
    yield made
    made.datapath.close(DISK)
    until(lambda: made.watch.ended)


def test_room_comes_before_it_is_needed(scene: Scene) -> None:
    scene.master.free = 64 * MIB
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        until(lambda: scene.used() > 5 * MIB)
        assert scene.used() <= scene.master.size
        assert scene.master.asked > 0
    assert scene.master.trouble is None
    scene.verify(writer)


def test_without_space_users_wait_until_there_is_some(scene: Scene) -> None:
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        until(lambda: scene.master.trouble is Trouble.NO_SPACE)
        rounds, asked = writer.rounds, scene.master.asked
        until(lambda: scene.master.asked > asked)
        assert writer.rounds <= rounds + 1
        assert scene.used() <= scene.master.size
        scene.master.free = 64 * MIB
        writer.go_on(10)
        until(lambda: scene.master.trouble is None)
    scene.verify(writer)


def test_without_an_answer_users_wait_for_the_master(scene: Scene) -> None:
    scene.master.free, scene.master.answers = 64 * MIB, False
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        until(lambda: scene.master.trouble is Trouble.NO_ANSWER)
        rounds = writer.rounds
        time.sleep(0.2)
        assert writer.rounds <= rounds + 1
        scene.master.answers = True
        writer.go_on(10)
        until(lambda: scene.master.trouble is None)
    scene.verify(writer)


def test_another_watch_goes_on_where_one_was_stopped(scene: Scene) -> None:
    """Users who were held wait on, and the new one lets them go."""
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        until(lambda: scene.master.trouble is Trouble.NO_SPACE)
        scene.watch.stop()
        until(lambda: scene.watch.ended)
        scene.master.free = 64 * MIB
        rounds = writer.rounds
        time.sleep(0.3)
        assert writer.rounds <= rounds + 1
        scene.watch = scene.watched()
        writer.go_on(10)
    scene.verify(writer)


def test_a_pool_that_does_not_answer_keeps_nobody_from_watching(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.watch.stop()
    until(lambda: scene.watch.ended)

    def lost() -> int:
        raise SmError("the pool is away")

    monkeypatch.setattr(scene.master, "full_size", lost)
    scene.watch = scene.watched()
    scene.master.free = 64 * MIB
    qemu_io(scene.endpoint.nbd, *(f"write -P 3 {n * MIB} {MIB}" for n in range(6)), "flush")
    until(lambda: scene.master.asked > 0)
    assert scene.used() <= scene.master.size
