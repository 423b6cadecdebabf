"""Told to stop, a collector ends within seconds; what it leaves is mended by whoever is next."""

from __future__ import annotations

import json
import os
import re
import struct
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sm import activation, claims
from sm.gc.state.ledger import Result
from sm.gc.state.status import status_path
from tests.datapath.clients import content, qemu_io
from tests.gc.active import ActiveScene
from tests.gc.killed import killed_at
from tests.gc.merges.test_crash import Scene, leaf_scene
from tests.gc.running import children, collector, copying, end, history, status
from tests.support.patience import patient, until
from tests.support.site import MIB, Site

pytestmark = pytest.mark.one_in(2)

QEMU_IMG = "/usr/bin/qemu-img"

SLOW = "0.2"
"""MiB per second, with which a copy takes a minute."""


def slow_scene(site: Site, image_format: str) -> Scene:
    """A disk of which all snapshots are deleted, and so slow a limit that the merge takes long."""
    scene = Scene(site, image_format)
    scene.write(0, 2 * MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 6 * MIB, 2)
    second = scene.snapshot()
    scene.write(5 * MIB, MIB, 3)
    scene.delete(first, second)
    limit(scene, SLOW)
    return scene


def limit(scene: Scene | ActiveScene, rate: str) -> None:
    """MiB per second that may be copied."""
    scene.site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", rate)


def require_stopped(scene: Scene | ActiveScene) -> None:
    """Whatever copied has ended before all was copied."""
    jobs = [job for job in history(scene.site, scene.sr) if job.action != "delete"]
    assert {job.result for job in jobs} == {Result.STOPPED}


def require_told_to_stop(site: Site) -> None:
    """The log has it that the one copy was told to stop, and did."""
    lines = (site.root / "log" / "sm.log").read_text().splitlines()
    said = [json.loads(line)["message"] for line in lines]
    ends = [text for text in said if re.match(r"(leaf-)?coalesce: ", text)]
    assert [text.split(": ")[1] for text in ends] == ["stopped"]


def test_sigterm_while_it_copies(cow_format: str, site: Site) -> None:
    """Also with qemu-img under way, of which nothing is left; the next start goes on from there."""
    scene = slow_scene(site, cow_format)
    with collector(site, "--sr", scene.sr) as process:
        until(lambda: copying(site, scene.sr), "a copy")
        tools = children(process.pid)
        assert any("qemu-img" in each for each in tools.values()) == (cow_format == "qcow2")
        assert end(process) == 0
    assert not [pid for pid in tools if Path(f"/proc/{pid}").exists()]
    (entry,) = site.repository(scene.sr).journal.entries()
    assert entry.stage == "copy"
    assert status(site, scene.sr).state == "stopped"
    require_stopped(scene)
    scene.verify()
    limit(scene, "none")
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(1)


def test_sigterm_while_a_datapath_copies(site: Site) -> None:
    scene = ActiveScene(site, "qcow2", 16 * MIB)
    scene.write(0, 8 * MIB, 1)
    first = scene.snapshot()
    scene.write(2 * MIB, 10 * MIB, 2)
    scene.snapshot()
    scene.delete(first)
    limit(scene, SLOW)
    with collector(site, "--sr", scene.sr) as process:
        until(lambda: copying(site, scene.sr), "a copy")
        scene.write(MIB, MIB, 3)
        end(process)
    require_stopped(scene)
    scene.verify_active()
    assert claims.standing(site.repository(scene.sr)) == []
    limit(scene, "none")
    scene.collect()
    scene.verify_active()
    scene.verify_tidy(3)
    scene.verify()


def test_whoever_wants_the_disk_mends_what_a_stop_left(
    cow_format: str, site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene = slow_scene(site, cow_format)
    with collector(site, "--sr", scene.sr) as process:
        until(lambda: copying(site, scene.sr), "a copy")
        end(process)
    assert claims.standing(site.repository(scene.sr))
    with monkeypatch.context() as patched:
        patched.setattr(activation, "CLAIM_WAIT_SECONDS", 0)
        uri = site.activate(scene.disk)  # which would be refused if it found a claim to wait for
    qemu_io(uri, f"write -P 9 {4 * MIB} 4096", "flush")
    scene.models[scene.disk].data[4 * MIB : 4 * MIB + 4096] = bytes([9]) * 4096
    assert content(uri, 8 * MIB) == scene.models[scene.disk].data
    site.deactivate(scene.disk)
    limit(scene, "none")
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(1)


def leak(path: Path) -> None:
    """Count a cluster of a QCOW2 image as used that nothing refers to."""
    with path.open("r+b") as file:
        file.seek(48)
        (table,) = struct.unpack(">Q", file.read(8))
        file.seek(table)
        (block,) = struct.unpack(">Q", file.read(8))
        clusters = -(-os.fstat(file.fileno()).st_size // 65536)
        file.truncate((clusters + 1) * 65536)
        file.seek(block + 2 * clusters)
        assert file.read(2) == b"\0\0"
        file.seek(block + 2 * clusters)
        file.write(b"\0\1")


def slow_repairs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the real qemu-img be slow where it mends an image."""
    folder.mkdir()
    tool = folder / "qemu-img"
    tool.write_text(f'#!/bin/sh\n[ "$1" = check ] && sleep infinity\nexec {QEMU_IMG} "$@"\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


def test_sigterm_while_it_mends(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry stays at `copy`, and the next start mends the target."""
    scene, images = leaf_scene(Site(tmp_path / "site"), "qcow2")
    killed_at(scene.site, scene.sr, "leaf-coalesce: switch")
    repository = scene.site.repository(scene.sr)
    (entry,) = repository.journal.entries()
    target = repository.store.path(entry.data["into"], "qcow2")
    leak(target)
    before = target.read_bytes()
    with monkeypatch.context() as patched:
        slow_repairs(tmp_path / "bin", patched)
        for how in ((), ("--recover",), ("--once",)):
            with collector(scene.site, "--sr", scene.sr, *how) as process:
                until(lambda: children(process.pid), "a repair")
                end(process)
            (still,) = repository.journal.entries()
            assert (still.key, still.stage) == (entry.key, "copy")
            assert target.read_bytes() == before
    scene.verify()
    scene.site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(images)


def test_detach_does_not_wait_for_a_copy(cow_format: str, site: Site) -> None:
    scene = slow_scene(site, cow_format)
    with collector(site, "--sr", scene.sr) as process:
        until(lambda: copying(site, scene.sr), "a copy")
        site.sm("sr", "detach", scene.sr)
        require_told_to_stop(site)
        assert process.wait(patient(20)) == 0
    assert not list((site.root / "run" / "gc").glob("*.hold"))
    limit(scene, "none")
    site.sm("sr", "attach", scene.sr)
    site.sm("gc", "run", "--sr", scene.sr)
    scene.verify_tidy(1)


def test_a_detach_that_was_killed_holds_nobody_off(site: Site) -> None:
    scene = slow_scene(site, "vhd")
    limit(scene, "none")
    folder = site.root / "run" / "gc"
    folder.mkdir(exist_ok=True)
    code = (
        "import sys, time; from pathlib import Path; from sm.hold import collector_held_off\n"
        "with collector_held_off(Path(sys.argv[1]), sys.argv[2], sys.argv[3], 'sr_detach'):\n"
        "    print('held', flush=True); time.sleep(1 << 20)\n"
    )
    before = site.images(scene.sr)
    host = site.repository(scene.sr).settings.host_uuid
    arguments = [sys.executable, "-c", code, str(site.root / "run"), scene.sr, host]
    with subprocess.Popen(arguments, stdout=subprocess.PIPE) as holding:
        assert holding.stdout is not None
        assert holding.stdout.readline() == b"held\n"
        with collector(site, "--sr", scene.sr):
            try:
                until(status_path(site.root / "run", scene.sr).exists, "the start")
                time.sleep(0.5)
                assert site.images(scene.sr) == before, "it worked although it was held off"
            finally:
                holding.kill()
            until(lambda: site.images(scene.sr) == {scene.disk}, "the work")
    assert not list(folder.glob("*.hold"))
    scene.verify_tidy(1)


def test_an_sr_without_disks_is_destroyed_while_its_images_are_merged(site: Site) -> None:
    scene = slow_scene(site, "vhd")
    with collector(site, "--sr", scene.sr) as process:
        until(lambda: copying(site, scene.sr), "a copy")
        # What the copy works on cannot be deleted: so the test hides it, as a crash might leave it.
        repository = site.repository(scene.sr)
        image = repository.store.path(scene.disk, "vhd")
        repository.formats.cow("vhd").set_hidden(image, True)
        site.sm("sr", "destroy", scene.sr)
        require_told_to_stop(site)
        assert process.wait(patient(20)) == 0
    assert not list(image.parent.glob("*.vhd"))
