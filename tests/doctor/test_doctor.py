"""`sm doctor` on real SRs: damage made by hand, found, mended where it can be, and nothing lost."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from sm import keys
from sm.gc.state.ledger import Ledger
from tests.doctor.scene import Scene, codes, examine
from tests.hosts.hosts import Host
from tests.support import guest
from tests.support.killing import killed_at
from tests.support.patience import patient, until
from tests.support.site import MIB, Refused, Site


def test_a_healthy_sr_is_one_line(scene: Scene) -> None:
    code, text = scene.site.run("doctor")
    assert (code, text) == (0, "all is well: 1 SR, 3 images\n")
    code, text = scene.site.run("doctor", "--check", "--sr", "store")
    assert (code, text) == (0, "all is well: 1 SR, 3 images, 3 checked whole\n")
    uri = scene.site.activate(scene.disk)
    assert uri
    assert scene.site.run("doctor")[0] == 0
    assert "2 checked whole" in scene.site.run("doctor", "--check")[1]


def test_looking_changes_nothing(scene: Scene) -> None:
    (scene.folder / ".new-left").write_bytes(b"x")
    before = {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in scene.folder.rglob("*")
        if path.is_file()
    }
    examine(scene.site, "--check")
    assert before == {
        path: (path.read_bytes(), path.stat().st_mtime_ns)
        for path in scene.folder.rglob("*")
        if path.is_file()
    }


def test_a_disk_without_image(scene: Scene) -> None:
    other = scene.site.create_vdi(scene.sr, "vhd")
    (scene.folder / f"{other}.vhd").unlink()
    assert codes(scene.site) == ["image-missing"]
    assert not scene.site.sm("doctor", "--fix", "--yes")["healthy"]
    scene.site.sm("vdi", "forget", other)
    assert codes(scene.site) == []
    assert {row["uuid"] for row in scene.site.sm("vdi", "list")} == {scene.disk, scene.snapshot}
    scene.verify()


def test_a_killed_datapath_leaves_a_key_and_a_link(scene: Scene) -> None:
    scene.site.activate(scene.disk)
    (active,) = scene.site.sm("vdi", "show", scene.disk)["active"]
    os.kill(active["pid"], signal.SIGKILL)
    until(lambda: codes(scene.site) == ["key-without-process", "dead-link"])
    assert scene.site.sm("doctor", "--fix", "--yes")["healthy"]
    scene.verify()
    assert scene.site.activate(scene.disk)


def test_an_interrupted_snapshot(scene: Scene) -> None:
    calls = "rename,renameat,renameat2,link,linkat"
    number = next(
        count
        for count in range(1, 60)
        if killed_at(scene.site, calls, count, "vdi", "snapshot", scene.disk)
        and "unfinished-work" in codes(scene.site)
    )
    assert number
    document = scene.site.sm("doctor", "--fix", "--yes")
    assert document["healthy"]
    assert "finish or undo the work that was interrupted" in document["mended"][0]["action"]
    scene.verify()


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_damaged_images_are_told_and_left(site: Site, image_format: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, image_format)
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    path = site.folder / "store" / f"{disk}.{image_format}"
    whole = path.read_bytes()
    path.write_bytes(b"rubbish" * 1000)
    assert codes(site) == ["image-unreadable"]
    code, text = site.run("doctor", "--fix", "--yes")
    assert code == 4
    assert f"sm image check {path} --alone" in text
    assert path.read_bytes() == b"rubbish" * 1000
    path.write_bytes(whole)
    assert codes(site, "--check") == []


def test_a_damaged_table_is_found_by_a_full_check(scene: Scene) -> None:
    path = scene.path(scene.disk)
    content = bytearray(path.read_bytes())
    table = int.from_bytes(content[48:56], "big")  # where the refcount table is
    block = int.from_bytes(content[table : table + 8], "big")
    content[block : block + 32] = bytes(32)  # sixteen clusters in use are said to be free
    path.write_bytes(content)
    assert codes(scene.site) == []
    assert codes(scene.site, "--check") == ["image-corrupt"]
    scene.verify()


def test_a_missing_parent_and_a_circle(scene: Scene) -> None:
    base = scene.site.sm("vdi", "show", scene.disk)["parent"]
    aside = scene.folder / "aside"
    scene.path(base).rename(aside)
    found = codes(scene.site)
    assert found.count("parent-missing") == 2
    assert "image-missing" in found
    aside.rename(scene.path(base))
    subprocess.run(
        [
            *("qemu-img", "rebase", "-u", "-f", "qcow2", "-F", "qcow2"),
            *("-b", f"{scene.disk}.qcow2", str(scene.path(base))),
        ],
        check=True,
    )
    found = codes(scene.site)
    assert found[0] == "circle"
    assert "circle" not in found[1:]


def test_strangers_and_failures(scene: Scene) -> None:
    (scene.folder / "mine.qcow2").write_bytes(b"?")
    failure = ("no-space", "9 bytes lack", time.time())
    Ledger(scene.site.root / "gc.db").failed(scene.sr, scene.disk, *failure)
    _, found = examine(scene.site)
    assert [each["code"] for each in found] == ["stranger", "work-failed"]
    assert found[0]["mend"] == f"mv {scene.folder / 'mine.qcow2'} ELSEWHERE"
    assert "no-space: 9 bytes lack" in found[1]["text"]
    assert scene.site.sm("explain", found[1]["mend"].split()[-1])["text"]


def test_journal_and_claims_that_nobody_can_read(scene: Scene) -> None:
    ref = scene.repository.record.ref
    for number, content in enumerate((b"{}", b"[]", b"x", b'{"a": 1}')):
        scene.repository.store.write_record(f"journal-coalesce-{number}", content)
    scene.repository.pool.add_to_sr_sm_config(ref, f"{keys.CHANGE_PREFIX}x", "rubbish")
    (scene.folder / ".new-left").write_bytes(b"x")
    assert codes(scene.site) == [
        *["journal-unreadable"] * 4,
        *("claim-unreadable", "leftover-file"),
    ]
    document = scene.site.run("--json", "doctor", "--fix", "--yes")
    assert len(json.loads(document[1])["mended"]) == 5
    assert codes(scene.site) == [*["journal-aside"] * 4, "claim-unreadable"]


def test_storage_that_is_gone_and_an_attachment_that_is_lost(scene: Scene) -> None:
    away = scene.folder.with_name("away")
    scene.folder.rename(away)
    assert codes(scene.site) == ["storage-gone"]
    away.rename(scene.folder)
    assert codes(scene.site) == []
    (scene.site.root / "run" / "attached" / f"{scene.sr}.json").unlink()
    _, (finding,) = examine(scene.site)
    assert finding["code"] == "attachment-lost"
    assert scene.site.run(*finding["mend"].split()[1:])[0] == 0
    assert codes(scene.site) == []


def test_an_sr_that_is_detached_is_not_examined(scene: Scene) -> None:
    scene.site.sm("sr", "detach", scene.sr)
    code, text = scene.site.run("doctor")
    assert (code, text) == (0, "all is well: 0 SRs, 0 images; not examined: 1 detached\n")
    with pytest.raises(Refused) as refused:
        scene.site.sm("doctor", "--sr", scene.sr)
    assert refused.value.error["name"] == "SRUnavailable"


def test_nothing_is_mended_without_an_answer(scene: Scene) -> None:
    (scene.folder / ".new-left").write_bytes(b"x")
    with pytest.raises(Refused) as refused:
        scene.site.sm("doctor", "--fix")
    assert "--yes" in refused.value.error["message"]
    for answer, status, left in ((b"n\n", 4, True), (b"y\n", 0, False)):
        ours, theirs = pty.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "sm.cli.main", "doctor", "--fix"],
            env=scene.site.environment,
            stdin=theirs,
            stdout=subprocess.PIPE,
        ) as asked:
            os.write(ours, answer)
            said, _ = asked.communicate(timeout=patient(60))
        os.close(ours)
        os.close(theirs)
        assert b"This would be done:" in said
        assert asked.returncode == status
        assert (scene.folder / ".new-left").exists() == left


def test_other_hosts_are_asked(tmp_path: Path) -> None:
    """A key of another host: served, not served, and of a host that does not answer."""
    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database) for name in ("alpha", "beta"))
    location = ("--device-config", f"location={tmp_path / 'images'}")
    sr = str(first.sm("sr", "create", "--name", "shared", "--shared", *location)["uuid"])
    second.sm("sr", "attach", sr)
    disk = first.create_vdi(sr, "qcow2")
    second.start()
    try:
        second.activate(disk)
        assert codes(first) == []
        (active,) = second.sm("vdi", "show", disk)["active"]
        os.kill(active["pid"], signal.SIGKILL)
        _, (finding,) = examine(first)
        assert (finding["code"], finding["fixable"]) == ("key-without-process", False)
        assert finding["mend"] == f"sm vdi reset {disk} --host beta"
    finally:
        second.kill()
    _, (finding,) = examine(first)
    assert finding["code"] == "host-silent"
    assert finding["mend"].endswith("--host beta --host-is-off")
    assert set(codes(second)) == {"key-without-process", "dead-link"}
    assert "for their master" not in first.run("doctor")[1]
    assert second.sm("doctor", "--fix", "--yes")["healthy"]
    assert codes(first) == []
    assert "the images of 1 are for their master" in second.run("doctor")[1]
