"""A leaf whose volume grows: how full it is, and users who wait for room, in a real daemon."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.datapath.base import DatapathFailed, Gauge, JobState, Level
from sm.datapath.qsd.datapath import QsdDatapath
from sm.errors import Busy
from sm.nbd.protocol import Command
from tests.datapath.clients import Writer, content, qemu_io
from tests.datapath.contract.subjects import SIZE, Qsd
from tests.datapath.contract.test_serving import DISK
from tests.nbd.client import connect
from tests.support.patience import until

PACE = 1 << 30
MIB = 1 << 20


class Scene:
    """A served disk over one parent, with a gauge."""

    def __init__(self, folder: Path) -> None:
        self.subject = Qsd(folder)
        self.chain, self.model = self.subject.chain("a", "b", "c")
        self.datapath = QsdDatapath(folder / "run")
        self.endpoint = self.datapath.open(DISK, self.chain, read_only=False, pace=PACE)
        self.ended = False
        self.gauge: Gauge = self.datapath.gauge(DISK)

    def level(self) -> Level:
        found = self.gauge.level()
        assert found is not None
        return found

    def held(self) -> bool:
        return self.level().held

    def end(self) -> None:
        if not self.ended:
            self.gauge.close()
        self.ended = True
        self.datapath.close(DISK)


HOUR = 3600
"""A wait that the event does not end is ended by the limit for every test."""


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    made = Scene(tmp_path)
    yield made
    made.end()


def test_the_level_follows_what_is_written(scene: Scene) -> None:
    assert [served.disk for served in scene.datapath.growing()] == [DISK]
    before = scene.level().used
    qemu_io(scene.endpoint.nbd, f"write -P 9 0 {4 * MIB}", "flush")
    after = scene.level().used
    assert before < after <= scene.chain[0].path.stat().st_size
    assert after >= 4 * MIB


def test_the_wait_ends_when_the_mark_is_passed(scene: Scene) -> None:
    mark = scene.level().used + MIB
    scene.gauge.wait(mark, 10)  # which asks for the event
    client = connect(scene.endpoint.nbd)
    client.send(Command.WRITE, 0, data=b"w" * (2 * MIB))
    scene.gauge.wait(mark, HOUR)
    until(lambda: scene.level().used > mark)


def test_users_wait_with_the_images_open(scene: Scene) -> None:
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.gauge.hold()
        scene.gauge.hold()
        assert scene.held()
        rounds = writer.rounds
        time.sleep(0.3)
        assert writer.rounds <= rounds + 1
        assert not scene.datapath.find(DISK).paused  # type: ignore[union-attr]
        scene.gauge.release()
        scene.gauge.release()
        assert not scene.held()
        writer.go_on(5)
    assert content(scene.endpoint.nbd, SIZE) == writer.data
    scene.end()
    assert scene.subject.content(scene.chain) == writer.data


def test_a_new_leaf_for_users_who_wait(scene: Scene) -> None:
    """A snapshot: they wait on, and go on with the new leaf when they are let go."""
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.gauge.hold()
        leafy = scene.subject.add_leaf(scene.chain, "kept")
        scene.datapath.refresh(DISK, leafy)
        assert scene.held()
        assert scene.datapath.find(DISK).chain == tuple(leafy)  # type: ignore[union-attr]
        rounds = writer.rounds
        time.sleep(0.2)
        assert writer.rounds <= rounds + 1
        scene.datapath.refresh(DISK, leafy)
        scene.gauge.release()
        writer.go_on(5)
    scene.end()
    assert scene.subject.content(leafy) == writer.data


def test_other_parents_for_users_who_wait(scene: Scene) -> None:
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.gauge.hold()
        fewer = scene.subject.merge_beside(scene.chain)
        before = scene.level()
        scene.datapath.refresh(DISK, fewer)
        assert scene.level() == before
        assert scene.held()
        scene.gauge.release()
        writer.go_on(5)
    scene.end()
    assert scene.subject.content(fewer) == writer.data
    link = scene.subject.util.info(fewer[0].path).parent
    assert link is not None
    assert link.name == fewer[1].path.name


def test_a_pause_of_users_who_wait(scene: Scene) -> None:
    """They are held after it as well, until the gauge lets them go."""
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.gauge.hold()
        before = scene.level()
        scene.datapath.pause(DISK)
        assert scene.gauge.level() is None
        scene.gauge.release()
        scene.datapath.resume(DISK, scene.chain)
        assert scene.level() == before
        assert scene.held()
        scene.gauge.release()
        writer.go_on(5)
    scene.end()
    assert scene.subject.content(scene.chain) == writer.data


def test_a_merge_is_given_up(scene: Scene) -> None:
    """No request can be held while there is one, so its owner finds it cancelled."""
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.datapath.start_commit(DISK, scene.chain[1], scene.chain[2], 1024)
        scene.gauge.hold()
        assert scene.held()
        job = scene.datapath.job(DISK)
        assert job is not None
        assert job.state is JobState.CANCELLED
        scene.datapath.finish_commit(DISK)
        with pytest.raises(Busy):
            scene.datapath.start_commit(DISK, scene.chain[1], scene.chain[2])
        scene.gauge.release()
        writer.go_on(5)
    assert scene.datapath.job(DISK) is None
    scene.end()
    assert scene.subject.content(scene.chain) == writer.data


def test_a_mirror_goes_on(scene: Scene) -> None:
    """Its users can be held, and its end comes while they are."""
    with Writer(scene.endpoint.nbd, bytes(scene.model)) as writer:
        writer.go_on(5)
        scene.datapath.start_mirror(DISK, scene.chain[1])
        scene.gauge.hold()
        with pytest.raises(Busy):
            scene.datapath.start_mirror(DISK, scene.chain[1])
        until(lambda: scene.datapath.mirror(DISK).state is JobState.READY)  # type: ignore[union-attr]
        scene.datapath.pause_mirrored(DISK, 20)
        left = scene.subject.take_name(scene.chain, 1)
        scene.datapath.resume(DISK, left)
        assert scene.held()
        scene.gauge.release()
        writer.go_on(5)
    scene.end()
    assert scene.subject.content(left) == writer.data


def test_a_daemon_that_ends_while_users_wait(scene: Scene) -> None:
    """What it acknowledged is there; the gauge says that nobody is left to ask."""
    qemu_io(scene.endpoint.nbd, f"write -P 7 0 {MIB}")
    client = connect(scene.endpoint.nbd)
    scene.gauge.hold()
    client.send(Command.WRITE, MIB, data=b"w" * 4096)
    scene.datapath.close(DISK)
    with pytest.raises(DatapathFailed):
        scene.gauge.level()
    assert scene.subject.content(scene.chain)[:MIB] == b"\x07" * MIB


def test_another_gauge_finds_what_a_killed_one_left(scene: Scene) -> None:
    scene.gauge.hold()
    scene.gauge.close()
    scene.gauge = scene.datapath.gauge(DISK)
    assert scene.held()
    scene.gauge.release()
    assert content(scene.endpoint.nbd, SIZE) == scene.model
    # Killed after it had hidden the socket, and before it held anybody.
    scene.datapath._hide(DISK)
    scene.gauge.close()
    scene.gauge = scene.datapath.gauge(DISK)
    assert content(scene.endpoint.nbd, SIZE) == scene.model
