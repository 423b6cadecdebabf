"""`sm vdi tree` with merges under way, drawn once and watched."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from dataclasses import replace

from sm.cli.tree_view import under_way
from sm.gc.state.status import RunningJob
from tests.support import guest, worker
from tests.support.patience import patient
from tests.support.site import MIB, Site


def _scene(site: Site) -> tuple[str, str, str]:
    """An SR, a disk, and the hidden image that it could be merged into."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2", name="web")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    site.delete(site.snapshot(disk))
    return sr, disk, site.sm("vdi", "show", disk)["parent"]


def test_a_merge_under_way_is_shown_at_its_images(site: Site) -> None:
    sr, disk, base = _scene(site)
    (tree,) = site.sm("vdi", "tree", "--sr", sr)["trees"]
    assert tree["running"] is None
    said = worker.working(sr, worker.job((disk,), base, 50, 200))
    said.write(worker.run_folder(site.root))
    (tree,) = site.sm("vdi", "tree", "--sr", sr)["trees"]
    assert tree["uuid"] == base
    assert (tree["running"]["what"], tree["running"]["percent"]) == (f"taking in {disk[:8]}", 25.0)
    (child,) = [each for each in tree["children"] if each["uuid"] == disk]
    assert child["running"]["what"] == f"being merged into {base[:8]}"
    assert child["running"]["seconds_left"] == 15.0
    _, text = site.run("vdi", "tree", "web")
    assert f"⇒ being merged into {base[:8]}, 25 %" in text
    worker.dead(said).write(worker.run_folder(site.root))
    assert "⇒" not in site.run("vdi", "tree", "web")[1]


def test_what_each_job_does_to_its_images() -> None:
    jobs = (
        RunningJob("1", "delete", ("a", "b"), 0.0),
        RunningJob("2", "leaf-coalesce", ("c", "d"), 0.0, into="d", leaf="e"),
    )
    found = {uuid: shown["what"] for uuid, shown in under_way(jobs).items()}
    assert found == {
        "a": "being deleted",
        "b": "being deleted",
        "c": "being merged into d",
        "e": "being merged into d",
        "d": "taking in c, e",
    }


def test_watched_it_follows_the_work(site: Site) -> None:
    sr, disk, base = _scene(site)
    words = [sys.executable, "-m", "sm.cli.main", "--json", "vdi", "tree", "--watch", disk]
    with subprocess.Popen(
        words, env=site.environment, stdout=subprocess.PIPE, text=True
    ) as watching:
        try:
            assert watching.stdout is not None
            (tree,) = json.loads(watching.stdout.readline())["trees"]
            assert (tree["uuid"], tree["running"]) == (base, None)
            assert len(tree["children"]) == 2
            said = worker.working(sr, worker.job((disk,), base))
            said.write(worker.run_folder(site.root))
            (tree,) = json.loads(watching.stdout.readline())["trees"]
            assert tree["running"]["percent"] == 25.0
            replace(said, jobs=()).write(worker.run_folder(site.root))
            (tree,) = json.loads(watching.stdout.readline())["trees"]
            assert tree["running"] is None
            site.sm("gc", "run", "--sr", sr)
            trees = [tree]
            while trees != [] and (trees[0]["uuid"] != disk or trees[0]["children"]):
                trees = json.loads(watching.stdout.readline())["trees"]
            assert [each["uuid"] for each in trees] == [disk]
        finally:
            watching.send_signal(signal.SIGINT)
        assert watching.wait(patient(30)) == 0
