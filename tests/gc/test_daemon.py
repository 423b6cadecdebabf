"""`sm-gc` as a process: once, and in a loop that is kicked and told to stop."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

from tests.gc.killed import killed_at
from tests.gc.merges.test_crash import coalesce_scene
from tests.gc.running import GC, status
from tests.support import guest
from tests.support.patience import patient, until
from tests.support.site import MIB, Refused, Site


def test_once(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    site.delete(site.snapshot(disk))
    ended = site.process(*GC[1:], "--sr", sr, "--once", timeout=patient(60))
    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
    assert site.images(sr) == {disk}


def test_an_sr_that_is_not_there(site: Site) -> None:
    ended = site.process(*GC[1:], "--sr", "nonsense", "--once", timeout=patient(60))
    assert ended.returncode == 1
    assert "is not attached on this host" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_loop_is_kicked_by_a_delete_and_ends_on_sigterm(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "vhd")
    with subprocess.Popen([*GC, "--sr", sr], env=site.environment) as collector:
        try:
            until((site.root / "run" / "gc" / f"{sr}.sock").exists)
            for _ in range(2):
                guest.write(site.chain(sr, disk), 0, MIB, 5)
                site.delete(site.snapshot(disk))
                until(lambda: site.images(sr) == {disk})
                until(lambda: status(site, sr).state == "idle")
        finally:
            collector.send_signal(signal.SIGTERM)
        assert collector.wait(patient(10)) == 0


def test_loop_ends_when_the_sr_is_detached(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "vhd")
    with subprocess.Popen([*GC, "--sr", sr], env=site.environment) as collector:
        until((site.root / "run" / "gc" / f"{sr}.sock").exists)
        site.delete(disk)
        until(lambda: site.images(sr) == set())
        site.sm("sr", "detach", sr)
        assert collector.wait(patient(30)) == 0


def test_two_collectors_take_turns(site: Site) -> None:
    sr = site.create_sr()
    repository = site.repository(sr)
    with repository.locks.hold("collector", sr, "another collector"):
        site.configure(lock_seconds=0.2)
        with pytest.raises(Refused) as refused:
            site.sm("gc", "run", "--sr", sr)
    assert refused.value.error["name"] == "LockErr"
    assert "another collector" in refused.value.error["detail"]


def test_recovery_is_left_to_a_collector_that_has_just_begun(tmp_path: Path) -> None:
    """It has the lock but does not listen yet: a command that finds work of a dead one goes on."""
    scene, images = coalesce_scene(Site(tmp_path), "vhd")
    # Two removals, the copy, and then the images above would be set on the target.
    killed_at(scene.site, scene.sr, 4)
    repository = scene.site.repository(scene.sr)
    (entry,) = repository.journal.entries()
    with repository.locks.hold("collector", scene.sr, "a collector that begins"):
        ended = scene.site.process(*GC[1:], "--sr", scene.sr, "--recover", timeout=patient(60))
        assert (ended.returncode, ended.stderr) == (0, "")
        other = scene.site.create_vdi(scene.sr, "vhd")
        assert repository.journal.entries() == [entry]
    scene.site.delete(other)
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(images)
