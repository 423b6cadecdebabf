"""The command line: exact JSON forms, finding things, sizes, errors, exit statuses."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from sm.cli import vdi_commands
from sm.cli.resolve import pick
from sm.cli.sizes import parse_size, show_size
from sm.datapath.choose import Datapaths
from sm.errors import InvalidArgument, code_table
from sm.hosts.calls import ask
from tests.support import guest
from tests.support.patience import until
from tests.support.site import MIB, Refused, Site

SM = str(Path(sys.executable).with_name("sm"))


def test_json_of_a_disk(site: Site) -> None:
    sr = site.create_sr()
    made = site.sm("vdi", "create", "--sr", "store", "--size", "10MiB", "--format", "vhd")
    assert set(made) == {"uuid"}
    shown = site.sm("vdi", "show", made["uuid"])
    assert {
        *("uuid", "sr", "name", "format", "path", "virtual_size", "physical_utilisation"),
        *("parent", "hidden", "is_a_snapshot", "snapshot_of", "sm_config"),
    } <= set(shown)
    assert (shown["sr"], shown["format"], shown["virtual_size"]) == (sr, "vhd", 10 * MIB)
    assert (shown["parent"], shown["hidden"], shown["is_a_snapshot"]) == (None, False, False)
    assert Path(shown["path"]).is_file()

    snapshot = site.sm("vdi", "snapshot", made["uuid"])
    assert set(snapshot) == {"uuid"}
    shown = site.sm("vdi", "show", snapshot["uuid"])
    assert (shown["is_a_snapshot"], shown["snapshot_of"]) == (True, made["uuid"])
    base = site.sm("vdi", "show", shown["parent"])
    assert base["hidden"]
    assert set(site.sm("vdi", "clone", made["uuid"])) == {"uuid"}


def test_json_of_the_collector(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    snapshot = site.snapshot(disk)
    guest.write(site.chain(sr, disk), MIB, MIB, 8)
    base = site.sm("vdi", "show", disk)["parent"]
    site.delete(snapshot)

    dry = site.sm("gc", "run", "--sr", sr, "--dry-run")
    assert (dry["done"], dry["remaining"]) == ([], 2)
    assert [row["action"] for row in dry["planned"]] == ["delete", "leaf-coalesce"]
    assert site.images(sr) == {disk, snapshot, base}

    report = site.sm("gc", "run", "--sr", sr)
    assert [row["action"] for row in report["done"]] == ["delete", "leaf-coalesce"]
    assert report["done"][0]["images"] == [snapshot]
    assert report["done"][1]["images"] == [base]
    assert report["done"][1]["bytes_copied"] == MIB
    assert report["remaining"] == 0
    assert site.images(sr) == {disk}
    assert site.sm("gc", "run", "--sr", sr) == {"done": [], "remaining": 0, "waiting": []}


def test_tree_shows_what_will_happen(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "vhd", name="web")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    site.delete(site.snapshot(disk))
    site.sm("vdi", "activate", disk)
    _, text = site.run("vdi", "tree", "--sr", sr)
    assert "active RW" in text
    assert "→ will take the place of" in text
    site.sm("vdi", "deactivate", disk)
    site.sm("vdi", "activate", disk, "--read-only")
    (tree,) = site.sm("vdi", "tree", "--sr", sr)["trees"]
    assert tree["hidden"]
    _, text = site.run("vdi", "tree", "--sr", sr)
    assert "web · disk · vhd" in text
    assert "active RO" in text
    assert "→ will be deleted" in text
    assert "waits: " in text
    assert len(text.splitlines()) == 3


def test_a_process_that_dies_at_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between the activation and the question where it serves."""
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    datapaths = Datapaths(site.repository(sr).settings)

    def asked_too_late(*given: Any, **named: Any) -> Any:
        (served,) = datapaths.served()
        os.kill(served.endpoint.pid, signal.SIGKILL)
        until(lambda: not datapaths.served())
        return ask(*given, **named)

    monkeypatch.setattr(vdi_commands, "ask", asked_too_late)
    with pytest.raises(Refused) as refused:
        site.activate(disk)
    assert "has ended" in refused.value.error["detail"]
    monkeypatch.undo()
    assert site.activate(disk)


def test_names_and_prefixes(site: Site) -> None:
    sr = site.create_sr("alpha")
    disk = site.create_vdi(sr, "qcow2", name="web")
    assert site.sm("sr", "show", sr[:8])["uuid"] == sr
    assert site.sm("vdi", "show", "web")["uuid"] == disk
    site.create_vdi(sr, "qcow2", name="web")
    with pytest.raises(Refused) as refused:
        site.sm("vdi", "show", "web")
    assert disk in refused.value.error["message"]


def test_pick() -> None:
    known = [("aab1", "one", 1), ("aac2", "two", 2), ("bb", "aa", 3)]
    assert pick("aab1", known) == 1
    assert pick("two", known) == 2
    assert pick("b", known) == 3
    assert pick("aa", known) == 3
    assert pick("zz", known) is None
    for ambiguous in ("a", ""):
        with pytest.raises(InvalidArgument):
            pick(ambiguous, known)


@pytest.mark.parametrize(
    ("text", "size"),
    [
        ("1", 1),
        ("10GiB", 10 << 30),
        ("10G", 10 << 30),
        ("10 gib", 10 << 30),
        ("1.5M", 3 << 19),
        ("10GB", 10**10),
        ("2TiB", 2 << 40),
    ],
)
def test_sizes(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "ten", "-1", "1XB", "0x10", "1e3"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_size(text)


def test_shown_sizes() -> None:
    shown = [show_size(size) for size in (0, 1023, 1536, 10 << 20, 300 << 30, 5 << 40)]
    assert shown == ["0 B", "1023 B", "1.5 KiB", "10 MiB", "300 GiB", "5 TiB"]


def test_errors_say_what_to_do(site: Site) -> None:
    site.create_sr()
    ended = subprocess.run(
        [SM, "vdi", "delete", "nope"],
        env=site.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 1
    assert ended.stdout == ""
    assert "there is no VDI 'nope'" in ended.stderr
    assert code_table()["VDIMissing"]["advice"] in ended.stderr
    assert "Traceback" not in ended.stderr


def test_wrong_usage_is_2() -> None:
    ended = subprocess.run([SM, "vdi", "fly"], capture_output=True, text=True, check=False)
    assert ended.returncode == 2


def test_options_may_stand_anywhere(site: Site) -> None:
    site.create_sr()
    code, before = site.run("--json", "sr", "list")
    assert code == 0
    assert site.run("sr", "list", "--json") == (0, before)


def test_damage_is_3(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "vhd")
    guest.write(site.chain(sr, disk), 0, MIB, 7)
    assert site.run("vdi", "check", disk)[0] == 0
    path = Path(site.sm("vdi", "show", disk)["path"])
    content = bytearray(path.read_bytes())
    content[600:640] = b"\xff" * 40
    path.write_bytes(content)
    code, text = site.run("--json", "vdi", "check", disk)
    assert code == 3
    assert json.loads(text)["images"][0]["corruptions"]


def test_every_code_and_reason_is_explained(site: Site) -> None:
    for name, entry in code_table().items():
        assert site.sm("explain", name)["code"] == entry["code"]
        assert entry["advice"]
    assert site.sm("explain", "SR_BACKEND_FAILURE_46")["name"] == "VDIUnavailable"
    source = Path(__file__).resolve().parents[2] / "gc"
    text = "".join(path.read_text() for path in source.rglob("*.py"))
    used = set(re.findall(r'Waiting\([^"()]*(?:\([^()]*\))?[^"()]*"([a-z-]+)"', text))
    used |= set(re.findall(r'code = "([a-z-]+)"', text))
    assert len(used) >= 9
    for code in used:
        assert site.sm("explain", code)["text"]
    with pytest.raises(Refused):
        site.sm("explain", "nonsense")


def test_life_of_an_sr(site: Site) -> None:
    sr = site.create_sr("alpha")
    disk = site.create_vdi(sr, "qcow2")
    site.sm("sr", "detach", sr)
    with pytest.raises(Refused) as refused:
        site.snapshot(disk)
    assert refused.value.error["name"] == "SRUnavailable"
    site.sm("sr", "forget", sr)
    location = f"location={site.folder / 'alpha'}"
    with pytest.raises(Refused) as refused:
        site.create_sr("alpha")
    assert refused.value.error["name"] == "SRExists"
    assert site.sm("sr", "list") == []
    again = site.sm("sr", "introduce", "--name", "beta", "--device-config", location)
    assert again["uuid"] == sr
    assert [row["uuid"] for row in site.sm("vdi", "list")] == [disk]
    with pytest.raises(Refused) as refused:
        site.sm("sr", "destroy", sr)
    assert refused.value.error["name"] == "SRNotEmpty"
    site.delete(disk)
    site.sm("sr", "destroy", sr)
    assert site.sm("sr", "list") == []


def test_scan_reports_bad_images(site: Site) -> None:
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2")
    Path(site.sm("vdi", "show", disk)["path"]).write_bytes(b"rubbish" * 1000)
    report = site.sm("sr", "scan", sr)
    assert set(report["problems"]) == {disk}
    assert site.sm("vdi", "list")[0]["uuid"] == disk


def test_reading_commands_write_nothing_to_the_storage(site: Site) -> None:
    sr = site.create_sr()
    for image_format in ("qcow2", "vhd", "raw"):
        disk = site.create_vdi(sr, image_format)
        if image_format != "raw":
            site.snapshot(disk)
    folder = site.folder / "store"

    def fingerprint() -> dict[str, tuple[bytes, int]]:
        return {
            str(path): (path.read_bytes(), path.stat().st_mtime_ns)
            for path in folder.rglob("*")
            if path.is_file()
        }

    before = fingerprint()
    site.sm("sr", "list")
    site.sm("sr", "show", sr)
    site.sm("sr", "scan", sr)
    site.sm("vdi", "list", "--all")
    site.sm("vdi", "show", disk)
    site.sm("vdi", "tree", "--sr", sr)
    site.sm("vdi", "check", disk)
    site.sm("gc", "status")
    site.sm("gc", "run", "--sr", sr, "--dry-run")
    assert fingerprint() == before


def test_a_probe_tells_what_is_there(site: Site) -> None:
    sr = site.create_sr("store")
    location = f"location={site.folder / 'store'}"
    (found,) = site.sm("sr", "probe", "--device-config", location)
    assert (found["UUID"], found["Devlist"]) == (sr, str(site.folder / "store"))
    code, text = site.run("sr", "probe", "--device-config", f"location={site.folder / 'none'}")
    assert (code, text) == (0, "no SR\n")
    with pytest.raises(Refused) as raised:
        site.sm("sr", "probe", "--type", "nfs")
    assert raised.value.error["code"] == 102
