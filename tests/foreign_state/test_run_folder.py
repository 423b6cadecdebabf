"""Files of state of this host that are none hold back what they are about, and nothing else."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.foreign_state.damage import DAMAGES, codes, everything_works
from tests.support.patience import until
from tests.support.site import Refused, Site

pytestmark = pytest.mark.one_in(4)

SOME = ("empty", "wrong-types", "deep", "link", "folder", "pipe", "huge")
"""What the journal's tests have all of: the reader is one."""


@pytest.mark.parametrize("damage", SOME)
def test_an_attachment(site: Site, damage: str) -> None:
    sr, second = site.create_sr(), site.create_sr("second")
    disk, other = site.create_vdi(sr, "qcow2"), site.create_vdi(second, "qcow2")
    site.activate(disk)
    path = site.root / "run" / "attached" / f"{sr}.json"
    DAMAGES[damage](path)
    everything_works(site, second, other)
    with pytest.raises(Refused) as refused:
        site.snapshot(disk)
    assert refused.value.error["name"] == "StateUnreadable"
    assert str(path) in refused.value.error["detail"]
    found = codes(site)
    assert found == {"attachment-unreadable": f"sm sr attach {sr}"}
    site.sm(*found["attachment-unreadable"].split()[1:])
    assert codes(site) == {}
    assert site.sm("vdi", "show", disk)["active"], "it is served, and must be known to be"
    site.deactivate(disk)
    everything_works(site, sr, disk)


@pytest.mark.parametrize("damage", SOME)
def test_a_note_without_a_process(site: Site, damage: str) -> None:
    sr = site.create_sr()
    disk, other = site.create_vdi(sr, "qcow2"), site.create_vdi(sr, "qcow2")
    site.activate(other)
    site.deactivate(other)
    path = site.root / "run" / "datapath" / "qsd" / f"{disk}.json"
    DAMAGES[damage](path)
    everything_works(site, sr, other)
    with pytest.raises(Refused) as refused:
        site.activate(disk)
    assert refused.value.error["name"] == "StateUnreadable"
    assert codes(site)["note-unreadable"] == f"sm doctor --sr {sr} --fix"
    site.run("--json", "doctor", "--fix", "--yes")
    assert codes(site) == {}
    assert list(path.parent.glob(f"{disk}.aside-*")), "nothing is deleted"
    everything_works(site, sr, disk)


def test_a_note_with_a_process_is_not_set_aside(site: Site) -> None:
    sr = site.create_sr()
    disk, other = site.create_vdi(sr, "qcow2"), site.create_vdi(sr, "qcow2")
    site.activate(disk)
    path = site.root / "run" / "datapath" / "qsd" / f"{disk}.json"
    content = path.read_bytes()
    pid = json.loads(content)["pid"]
    path.write_bytes(content[:-20])
    everything_works(site, sr, other)
    with pytest.raises(Refused):
        site.deactivate(disk)
    site.run("--json", "doctor", "--fix", "--yes")
    assert codes(site)["note-unreadable"] == f"ps -fp {pid}"
    assert path.read_bytes() == content[:-20]
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}/fd").exists())
    site.run("--json", "doctor", "--fix", "--yes")
    assert "note-unreadable" not in codes(site)
    site.deactivate(disk)
    everything_works(site, sr, disk)


@pytest.mark.parametrize("damage", ["empty", "no-json", "deep", "pipe", "folder", "loop", "link"])
def test_what_a_collector_says_of_itself(site: Site, damage: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    folder = site.root / "run" / "gc"
    folder.mkdir(parents=True, exist_ok=True)
    DAMAGES[damage](folder / f"{sr}.status.json")
    everything_works(site, sr, disk)


@pytest.mark.parametrize("damage", ["deep", "folder", "loop"])
def test_the_memory_of_the_collectors(site: Site, damage: str) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    ledger = site.root / "gc.db"
    for each in site.root.glob("gc.db*"):
        each.unlink()
    DAMAGES[damage](ledger)
    everything_works(site, sr, disk)
    command = codes(site)["ledger-unreadable"].split()
    assert command == ["mv", str(ledger), f"{ledger}.aside"]
    ledger.rename(command[2])
    assert codes(site) == {}
    everything_works(site, sr, disk)


def _killed_before_its_rename(site: Site, *arguments: str) -> None:
    """Run a command that gets SIGKILL when it is about to give a file its name."""
    script = (
        "import os, signal, sys, pathlib\n"
        "def die(*names): os.kill(os.getpid(), signal.SIGKILL)\n"
        "pathlib.Path.replace = die\n"
        "from sm.cli.main import main\n"
        "main(sys.argv[1:])\n"
    )
    assert site.process("-c", script, *arguments).returncode == -signal.SIGKILL


def test_what_killed_writers_left_goes_with_the_next_call(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    site.sm("sr", "detach", sr)
    _killed_before_its_rename(site, "sr", "attach", sr)
    run = site.root / "run"
    assert list((run / "attached").glob(".new-*"))
    site.sm("sr", "attach", sr)
    assert not list((run / "attached").glob(".new-*"))

    _killed_before_its_rename(site, "vdi", "activate", disk)
    assert list((run / "datapath" / "qsd").glob(".new-*"))
    site.sm("vdi", "reset", disk, "--host", site.sm("host", "list")[0]["uuid"])
    site.activate(disk)
    site.deactivate(disk)
    _killed_before_its_rename(site, "vdi", "snapshot", disk)
    site.sm("sr", "scan", sr)
    everything_works(site, sr, disk)
    left = [path for folder in (run, site.folder / "store") for path in folder.rglob(".new-*")]
    assert left == []


def test_a_link_under_a_temporary_name_is_not_written_through(site: Site) -> None:
    """Whatever name is guessed: what it leads to stays as it is."""
    sr = site.create_sr()
    victim = site.folder / "victim"
    victim.write_bytes(b"mine")
    script = (
        "import os, sys, pathlib\n"
        "from sm.cli.main import main\n"
        "real = os.open\n"
        "def planted(path, flags, *rest, **more):\n"
        "    name = os.fsdecode(path) if not isinstance(path, int) else ''\n"
        "    if '/.new-' in name and flags & os.O_CREAT and not os.path.lexists(name):\n"
        "        os.symlink(os.environ['VICTIM'], name)\n"
        "    return real(path, flags, *rest, **more)\n"
        "os.open = planted\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    site.surroundings["VICTIM"] = str(victim)
    site.sm("sr", "detach", sr)
    assert site.process("-c", script, "sr", "attach", sr).returncode == 1
    assert victim.read_bytes() == b"mine"
