"""A collector as a service: side by side, in turn, again after a failure, and when asked."""

from __future__ import annotations

import json
import shutil
import time
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from sm import activation, process
from sm.cowutil.vhd.block_file import Access, open_file
from sm.gc.state.ledger import FIRST_DELAY, Ledger, Result
from sm.gc.state.status import Delayed, State
from sm.kick import kick
from tests.datapath.clients import content
from tests.gc.active import ActiveScene
from tests.gc.killed import killed_at
from tests.gc.merges.test_crash import Scene, leaf_scene
from tests.gc.running import collector, copying, end, history, status
from tests.support.guest import Model
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

pytestmark = pytest.mark.one_in(2)


def add_merge(scene: Scene, image_format: str, length: int = 5 * MIB) -> str:
    """One more disk of which a deleted snapshot is to be merged: `length` bytes to copy."""
    scene.disk = scene.site.create_vdi(scene.sr, image_format, 8 * MIB)
    scene.models[scene.disk] = Model(8 * MIB)
    scene.write(0, 6 * MIB, len(scene.models))
    snapshot = scene.snapshot()
    scene.write(0, length, 100 + len(scene.models))
    scene.delete(snapshot)
    return scene.disk


def several(site: Site, image_format: str, count: int) -> tuple[Scene, list[str]]:
    """An SR with some such disks and nothing else; they are copied slowly."""
    scene = Scene(site, image_format)
    scene.delete(scene.disk)
    site.sm("gc", "run", "--sr", scene.sr)
    disks = [add_merge(scene, image_format) for _ in range(count)]
    rate(scene, "0.2")
    return scene, disks


def rate(scene: Scene, text: str) -> None:
    """MiB per second that may be copied."""
    scene.site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", text)


def copies(scene: Scene) -> set[str]:
    """The leaves that are being merged now."""
    return {job.leaf for job in status(scene.site, scene.sr).jobs if job.leaf is not None}


def damage_table(path: Path) -> None:
    """Damage a VHD in a way that its headers do not tell: table entries that point to one block."""
    with path.open("r+b") as file:
        file.seek(512 + 16)
        file.seek(int.from_bytes(file.read(8), "big"))
        file.write(bytes([0, 0, 0, 9]) * 4)


def waits(scene: Scene) -> Sequence[Delayed]:
    """What the collector lets wait."""
    return status(scene.site, scene.sr).waiting


def idle(scene: Scene) -> bool:
    """Whether the collector is at rest."""
    return status(scene.site, scene.sr).state is State.IDLE


def test_trees_side_by_side_and_deletions_at_once(cow_format: str, site: Site) -> None:
    """Two copies at once, not three; a disk that is deleted meanwhile is gone at once."""
    scene, disks = several(site, cow_format, 3)
    other = site.create_vdi(scene.sr, cow_format)
    with collector(site, "--sr", scene.sr):
        until(lambda: len(copies(scene)) == 2, "two copies")
        running = copies(scene)
        (queued,) = set(disks) - running
        waiting = {each.image: each.code for each in status(site, scene.sr).waiting}
        assert waiting == {queued: "queued"}
        site.delete(other)
        until(lambda: other not in site.images(scene.sr), "the deletion")
        assert copies(scene) == running
        rate(scene, "none")
        until(lambda: site.images(scene.sr) == set(disks), "the end")
        until(lambda: idle(scene), "rest")
    done = [job for job in history(site, scene.sr) if job.leaf]
    assert {job.leaf for job in done} == set(disks)
    assert all(job.result is Result.DONE for job in history(site, scene.sr))
    scene.verify()


def test_a_failure_waits_for_its_time_also_after_a_restart(site: Site) -> None:
    scene, (disk,) = several(site, "vhd", 1)
    rate(scene, "none")
    chain = site.chain(scene.sr, disk)
    whole = chain[0].path.read_bytes()
    damage_table(chain[0].path)
    for _ in range(2):
        with collector(site, "--sr", scene.sr):
            until(lambda: status(site, scene.sr).waiting, "the failure")
            until(lambda: idle(scene), "rest")
            for _ in range(3):
                kick(site.root / "run", scene.sr)
                time.sleep(0.2)
            (waiting,) = status(site, scene.sr).waiting
        assert (waiting.image, waiting.code) == (disk, "failed")
        assert waiting.next_attempt is not None
        failed = [job for job in history(site, scene.sr) if job.result is Result.FAILED]
        assert waiting.next_attempt >= failed[0].began + FIRST_DELAY
        assert len(failed) == 1, "it was tried again at once"
        assert Ledger(site.root / "gc.db").failures(scene.sr)[disk].count == 1
    chain[0].path.write_bytes(whole)
    # An administrator does not wait, whoever does the work.
    with collector(site, "--sr", scene.sr):
        until(lambda: idle(scene), "rest")
        report = site.sm("gc", "run", "--sr", scene.sr)
        assert [step["action"] for step in report["done"]] == ["leaf-coalesce"]
    scene.verify_tidy(1)


def test_a_run_by_hand_is_done_by_the_collector_that_runs(site: Site) -> None:
    """Outside of its hours that one would wait; asked for it, it works, and both tell the same."""
    scene, (disk,) = several(site, "qcow2", 1)
    rate(scene, "none")
    hour = (time.localtime().tm_hour + 12) % 24
    site.sm("gc", "limit", "--sr", scene.sr, "--hours", f"{hour}:00-{hour}:01")
    with collector(site, "--sr", scene.sr) as process_:
        until(lambda: status(site, scene.sr).state is State.OUTSIDE_HOURS, "the hours")
        until(lambda: disk in {each.image for each in waits(scene)})
        report = site.sm("gc", "run", "--sr", scene.sr)
        assert [(step["action"], step["leaf"]) for step in report["done"]] == [
            ("leaf-coalesce", disk)
        ]
        assert (report["remaining"], report["waiting"]) == (0, [])
        until(lambda: status(site, scene.sr).state is State.OUTSIDE_HOURS, "the hours")
        log = [json.loads(line) for line in (site.root / "log" / "sm.log").open()]
        (job,) = [job for job in history(site, scene.sr) if job.leaf]
        said = [line for line in log if line.get("job") == job.id]
        assert len(said) >= 2
        assert {line["process"] for line in said} == {process_.pid}
        assert {(line["sr"], line["vdi"]) for line in said} == {(scene.sr, disk)}
    assert not list((site.root / "run" / "gc").glob("*.ask"))
    scene.verify_tidy(1)


def test_a_run_by_hand_goes_on_when_the_collector_is_killed(site: Site) -> None:
    scene, (disk,) = several(site, "vhd", 1)
    with collector(site, "--sr", scene.sr) as process_:
        until(lambda: copying(site, scene.sr), "a copy")
        asked = site.start("gc", "run", "--sr", scene.sr)
        until(lambda: list((site.root / "run" / "gc").glob("*.ask")), "the question")
        rate(scene, "none")
        process_.kill()
        process_.wait()
        report = site.result(asked)
    assert [step["leaf"] for step in report["done"]] in ([disk], [])
    scene.verify_tidy(1)


def test_pause_stops_a_copy_and_is_remembered(cow_format: str, site: Site) -> None:
    scene, (disk,) = several(site, cow_format, 1)
    other = site.create_vdi(scene.sr, cow_format)
    pause = ("gc", "pause", "--sr", scene.sr, "--for", "1h", "--reason", "a backup runs")
    with collector(site, "--sr", scene.sr):
        until(lambda: copying(site, scene.sr), "a copy")
        said = site.sm(*pause)["paused"]
        assert said["until"] - said["since"] == 3600
        until(lambda: status(site, scene.sr).state is State.PAUSED, "the pause")
        # It has settled what it had begun: nobody waits for a claim in a pause.
        assert site.repository(scene.sr).journal.entries() == []
        assert history(site, scene.sr)[0].code == "paused"
        assert "a backup runs" in status(site, scene.sr).detail
        site.delete(other)
        until(lambda: other not in site.images(scene.sr), "the deletion")
    rate(scene, "none")
    report = site.sm("gc", "run", "--sr", scene.sr)
    assert report["done"] == []
    assert [(each["image"], each["code"]) for each in report["waiting"]] == [(disk, "paused")]
    scene.verify()
    with collector(site, "--sr", scene.sr):
        until(lambda: status(site, scene.sr).state is State.PAUSED, "the pause")
        site.sm("gc", "resume", "--sr", scene.sr)
        until(lambda: site.images(scene.sr) == {disk}, "the work")
        until(lambda: idle(scene), "rest")
    scene.verify_tidy(1)


def test_the_end_of_the_hours_stops_a_copy(site: Site) -> None:
    scene, (disk,) = several(site, "vhd", 1)
    with collector(site, "--sr", scene.sr):
        until(lambda: copying(site, scene.sr), "a copy")
        hour = (time.localtime().tm_hour + 12) % 24
        site.sm("gc", "limit", "--sr", scene.sr, "--hours", f"{hour}:00-{hour}:01")
        until(lambda: status(site, scene.sr).state is State.OUTSIDE_HOURS, "the end")
        (waiting,) = waits(scene)
        assert (waiting.image, waiting.code) == (disk, "outside-hours")
        assert time.localtime(waiting.next_attempt)[3:5] == (hour, 0)
        assert site.repository(scene.sr).journal.entries() == []
    scene.verify()


def test_an_activation_ends_a_slow_copy_soon(cow_format: str, site: Site) -> None:
    """However slow its limit makes it: it is overtaken, and not waited for."""
    scene, (disk,) = several(site, cow_format, 1)
    rate(scene, "0.1")
    with collector(site, "--sr", scene.sr):
        until(lambda: copying(site, scene.sr), "a copy")
        uri = site.activate(disk)
        assert content(uri, 8 * MIB) == scene.models[disk].data
        site.deactivate(disk)
    # The oldest is the last; what came after it found the disk in use, or at rest again.
    assert [job.code for job in history(site, scene.sr) if job.leaf][-1] == "overtaken"
    scene.verify()


def test_a_pause_ends_by_itself_and_can_be_replaced(site: Site) -> None:
    scene, (disk,) = several(site, "vhd", 1)
    rate(scene, "none")
    site.sm("gc", "pause", "--sr", scene.sr)
    site.sm("gc", "pause", "--sr", scene.sr, "--for", "2s")
    with pytest.raises(Refused):
        site.sm("gc", "pause", "--sr", scene.sr, "--until", "2001-01-01T00:00")
    with collector(site, "--sr", scene.sr):
        until(lambda: site.images(scene.sr) == {disk}, "the work")
        until(lambda: idle(scene), "rest")
    scene.verify_tidy(1)


def test_what_is_copied_is_finished_in_a_pause(tmp_path: Path) -> None:
    scene, images = leaf_scene(Site(tmp_path / "site"), "vhd")
    killed_at(scene.site, scene.sr, "leaf-coalesce: supersede")
    scene.site.sm("gc", "pause", "--sr", scene.sr)
    with collector(scene.site, "--sr", scene.sr):
        until(lambda: not scene.site.repository(scene.sr).journal.entries(), "the end")
        until(lambda: status(scene.site, scene.sr).state is State.PAUSED, "the pause")
    # The smaller image below is a copy of its own, which has not begun.
    scene.verify_tidy(images + 1)
    scene.site.sm("gc", "resume", "--sr", scene.sr)
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(images)


def test_recovery_beside_a_copy_touches_only_what_was_left(tmp_path: Path) -> None:
    """One tree has an entry of a collector that was killed, another is being copied."""
    scene, _ = leaf_scene(Site(tmp_path / "site"), "vhd")
    site, left = scene.site, scene.disk
    killed_at(site, scene.sr, "leaf-coalesce: switch")
    disk = add_merge(scene, "vhd")
    rate(scene, "1")
    with collector(site, "--sr", scene.sr):
        until(lambda: copying(site, scene.sr), "a copy")
        (job,) = [job for job in status(site, scene.sr).jobs if job.leaf == disk]
        actions = {each.action: each.result for each in history(site, scene.sr)}
        assert actions["recover"] is Result.DONE
        for _ in range(5):
            kick(site.root / "run", scene.sr)
            time.sleep(0.1)
        assert job.id in {each.id for each in status(site, scene.sr).jobs}
        rate(scene, "none")
        until(lambda: site.images(scene.sr) == {disk, left}, "the work")
        until(lambda: idle(scene), "rest")
    assert {each.result for each in history(site, scene.sr)} == {Result.DONE}
    scene.verify_tidy(2)


def test_what_cannot_be_settled_is_not_tried_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each attempt of whoever waits for the images is a process; they get rarer."""
    scene, images = leaf_scene(Site(tmp_path / "site"), "vhd")
    killed_at(scene.site, scene.sr, "leaf-coalesce: switch")
    repository = scene.site.repository(scene.sr)
    (entry,) = repository.journal.entries()
    started: list[Sequence[str]] = []
    run = process.run

    def counting(argv: Sequence[str], **options: Any) -> Any:
        if "--recover" in argv:
            started.append(argv)
        return run(argv, **options)

    monkeypatch.setattr(process, "run", counting)
    monkeypatch.setattr(activation, "CLAIM_WAIT_SECONDS", 5.0)
    with closing(open_file(repository.store.path(entry.data["into"], "vhd"), Access.WRITE)):
        with pytest.raises(Refused) as refused:
            scene.site.activate(scene.disk)
        assert refused.value.error["name"] == "EGAIN"
    assert 1 <= len(started) <= 3
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(images)


def test_names_that_change_without_a_kick_are_noticed(site: Site) -> None:
    scene = Scene(site, "vhd")
    repository = site.repository(scene.sr)
    with collector(site, "--sr", scene.sr):
        until(lambda: idle(scene), "rest")
        stranger = str(uuid.uuid4())
        path = repository.store.path(stranger, "vhd")
        hidden = path.with_name(".hidden")
        shutil.copy(repository.store.path(scene.disk, "vhd"), hidden)
        repository.formats.cow("vhd").set_hidden(hidden, True)
        hidden.rename(path)
        until(lambda: not path.exists(), "its deletion")
    scene.verify_tidy(1)


def test_a_collector_that_was_killed_is_followed_by_the_next(site: Site) -> None:
    scene, (disk,) = several(site, "qcow2", 1)
    with collector(site, "--sr", scene.sr) as process_:
        until(lambda: copying(site, scene.sr), "a copy")
        process_.kill()
        process_.wait()
    assert status(site, scene.sr).state is State.STOPPED
    rate(scene, "none")
    with collector(site, "--sr", scene.sr) as process_:
        until(lambda: site.images(scene.sr) == {disk}, "the work")
        until(lambda: idle(scene), "rest")
        end(process_)
    scene.verify_tidy(1)


def test_without_its_ledger_a_collector_works(site: Site) -> None:
    """The disk may be full, and then it is needed most."""
    scene, disks = several(site, "vhd", 2)
    rate(scene, "none")
    for path in site.root.glob("gc.db*"):
        path.unlink()
    (site.root / "gc.db").mkdir()
    damaged = site.chain(scene.sr, disks[0])[0].path
    whole = damaged.read_bytes()
    damage_table(damaged)
    with collector(site, "--sr", scene.sr):
        until(lambda: disks[1] not in {w.image for w in waits(scene)} and idle(scene), "rest")
        kick(site.root / "run", scene.sr)
        time.sleep(1)
        begun = (site.root / "log" / "sm.log").read_text().count("leaf-coalesce begins")
        assert begun == 2, "what failed was tried again at once"
    damaged.write_bytes(whole)
    site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(2)


def test_a_limit_is_heeded_by_a_datapath_that_copies(site: Site) -> None:
    scene = ActiveScene(site, "qcow2", 64 * MIB)
    scene.write(0, 40 * MIB, 1)
    first = scene.snapshot()
    scene.write(0, 60 * MIB, 2)
    scene.snapshot()
    scene.delete(first)
    site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "0.5")
    with collector(site, "--sr", scene.sr):
        until(lambda: copying(site, scene.sr), "a copy")
        time.sleep(2)
        (job,) = status(site, scene.sr).jobs
        assert 0 < job.bytes_done < job.bytes_total / 2, "60 MiB of it take minutes"
        site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "none")
        until(lambda: len(site.images(scene.sr)) == 3, "the end of a copy without a limit")
    scene.verify_active()
    scene.verify()
