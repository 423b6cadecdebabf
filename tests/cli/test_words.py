"""However a command ends there is a status, one document with --json, and never a traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sm.gc.state.ledger import Ledger, Result
from tests.gc.merges.test_crash import Scene
from tests.gc.running import copying
from tests.support.patience import patient, until
from tests.support.site import MIB, Refused, Site

COMMAND = ("-m", "sm.cli.main")
DIGITS = "9" * 5000


def _error(site: Site, *arguments: str) -> dict[str, object]:
    """What a command says that fails, with --json."""
    ended = site.process(*COMMAND, *arguments)
    assert ended.returncode in (1, 2), ended
    assert ended.stderr == ""
    error: dict[str, object] = json.loads(ended.stdout)["error"]
    assert set(error) == {"code", "name", "message", "detail", "advice"}
    return error


@pytest.mark.parametrize("place", range(4))
def test_json_anywhere_on_the_line(site: Site, place: int) -> None:
    site.create_sr()
    words = ["vdi", "list", "--all"]
    words.insert(place, "--json")
    ended = site.process(*COMMAND, *words)
    assert (ended.returncode, json.loads(ended.stdout)) == (0, [])


@pytest.mark.parametrize(
    "words",
    [
        (),
        ("frob",),
        ("vdi", "frob"),
        ("vdi", "create"),
        ("vdi", "list", "--frob"),
        ("image", "cat"),
        ("gc", "history", "--limit", "0"),
        ("gc", "history", "--limit", DIGITS),
        ("gc", "history", "--limit", "9" * 30),
    ],
)
def test_json_for_a_wrong_line(site: Site, words: tuple[str, ...]) -> None:
    assert _error(site, *words, "--json")["name"] == "InvalidArg"
    assert _error(site, "--json", *words)["detail"]
    plain = site.process(*COMMAND, *words)
    assert (plain.returncode, plain.stdout) == (2, "")
    assert plain.stderr.startswith("usage: sm")


@pytest.mark.parametrize(
    "words",
    [
        ("vdi", "create", "--sr", "store", "--size", DIGITS),
        ("vdi", "create", "--sr", "store", "--size", "1MiB", "--name", os.fsdecode(b"\xff")),
        ("vdi", "create", "--sr", os.fsdecode(b"\xff"), "--size", "1MiB"),
        ("vdi", "resize", "web", "--size", "17TiB"),
        ("sr", "create", "--size", DIGITS, "--device-config", "location=/x"),
        ("gc", "pause", "--sr", "store", "--for", "9" * 400 + "h"),
        ("gc", "pause", "--sr", "store", "--until", "0001-01-01T00:00"),
        ("gc", "metrics", "--output", "/proc/x"),
        ("image", "measure", "--size", DIGITS, "--target", "vhd"),
        ("image", "info", "/nonexistent.qcow2"),
    ],
)
def test_no_traceback_for_what_a_user_can_say(site: Site, words: tuple[str, ...]) -> None:
    site.create_vdi(site.create_sr(), "qcow2", name="web")
    assert _error(site, *words, "--json")["name"] != "GenericException"
    plain = site.process(*COMMAND, *words)
    assert plain.returncode == 1
    assert "Traceback" not in plain.stderr
    assert plain.stderr.startswith("sm: ")


@pytest.mark.parametrize("options", [("--json",), ()])
def test_a_defect_is_one_line_and_kept(site: Site, options: tuple[str, ...]) -> None:
    """The line says where the details are; in the log of the root, or in a file where is none."""
    script = (
        "import sys\n"
        "from sm.cli import image_commands, sr_commands\n"
        "from sm.cli import main\n"
        "def broken(*given):\n"
        "    'Break.'\n"
        "    raise AssertionError('a fault of ours')\n"
        "image_commands.info = broken\n"
        "main.COMMANDS = tuple(\n"
        "    main.Command('sr', 'list', broken) if (c.group, c.name) == ('sr', 'list') else c\n"
        "    for c in main.COMMANDS)\n"
        "sys.exit(main.main(sys.argv[1:]))\n"
    )
    site.create_sr()
    for words in (("sr", "list"), ("image", "info", "x.vhd")):
        ended = site.process("-c", script, *words, *options)
        assert ended.returncode == 1
        said = ended.stderr
        if options:
            assert ended.stderr == ""
            error = json.loads(ended.stdout)["error"]
            assert error["name"] == "GenericException"
            said = f"GenericException {error['detail']}\n"
        assert said.count("\n") == 1
        assert "GenericException" in said
        place = Path(said.rpartition("the details are in ")[2].strip())
        kept = place.read_text()
        assert "Traceback" in kept
        assert "a fault of ours" in kept
        if place.name.startswith("sm-defect-"):
            place.unlink()


def test_ctrl_c_ends_a_run_of_the_collector(site: Site) -> None:
    """One line, status 130; the history has the job; nothing is lost and the next run ends it."""
    scene = Scene(site, "qcow2")
    scene.write(0, 2 * MIB, 1)
    first = scene.snapshot()
    scene.write(MIB, 6 * MIB, 2)
    second = scene.snapshot()
    scene.write(5 * MIB, MIB, 3)
    scene.delete(first, second)
    site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "0.2")
    run = subprocess.Popen(
        [sys.executable, *COMMAND, "gc", "run", "--sr", scene.sr],
        env=site.environment,
        stderr=subprocess.PIPE,
        text=True,
    )
    until(lambda: copying(site, scene.sr))
    run.send_signal(signal.SIGINT)
    _, said = run.communicate(timeout=patient(60))
    assert (run.returncode, said) == (130, "sm: The command was interrupted\n")
    (job, *_) = Ledger(site.root / "gc.db").history(scene.sr, 10)
    assert job.result is Result.STOPPED
    site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "none")
    site.sm("gc", "run", "--sr", scene.sr)
    scene.verify()


@pytest.mark.parametrize("command", ["snapshot", "clone"])
def test_a_copy_without_a_name_leaves_the_disk_its_own(site: Site, command: str) -> None:
    disk = site.create_vdi(site.create_sr(), "qcow2", name="web")
    copies = [site.sm("vdi", command, "web")["uuid"] for _ in range(3)]
    assert site.sm("vdi", "show", "web")["uuid"] == disk
    names = [site.sm("vdi", "show", each)["name"] for each in copies]
    assert len(set(names)) == 3
    for name, copy in zip(names, copies, strict=True):
        assert name.startswith(f"web ({command}, ")
        assert site.sm("vdi", "show", name)["uuid"] == copy
    site.delete("web")


def test_secrets_are_masked(site: Site) -> None:
    sr = site.create_sr()
    repository = site.repository(sr)
    pool, record = repository.pool, repository.record
    secrets = {"chappassword": "s3cret-1", "Password": "s3cret-2", "cifs_secret": "s3cret-3"}
    for key, value in secrets.items():
        pool.add_to_sr_other_config(record.ref, key, value)
    second = site.folder / "second"
    more = [word for each in secrets.items() for word in ("--device-config", "=".join(each))]
    site.sm("sr", "create", "--name", "two", "--device-config", f"location={second}", *more)
    for words in (("sr", "show", sr), ("sr", "show", "two"), ("sr", "list"), ("doctor",)):
        for options in ((), ("--json",)):
            ended = site.process(*COMMAND, *words, *options)
            assert ended.returncode == 0, ended
            assert "s3cret" not in ended.stdout + ended.stderr
    shown = site.sm("sr", "show", "two")["device_config"]
    assert shown == {"location": str(second), **dict.fromkeys(secrets, "***")}


def test_a_file_that_is_too_long_says_what_to_do(site: Site) -> None:
    """The system says EFBIG where a limit of the process or file system is met."""
    sr = site.create_sr()
    script = (
        "import resource, signal, sys\n"
        "from sm.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20))\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    words = ("vdi", "create", "--sr", sr, "--size", "1TiB", "--format", "raw")
    site.configure(preferred_image_formats="raw")
    ended = site.process("-c", script, *words, "--json")
    error = json.loads(ended.stdout)["error"]
    assert error["name"] == "VDISize"
    assert "choose a smaller size" in error["detail"]


def test_refusals_have_codes(site: Site) -> None:
    with pytest.raises(Refused) as refused:
        site.sm("vdi", "show", "nothing")
    assert refused.value.error["name"] == "VDIMissing"


def test_hosts_are_called_by_their_names(site: Site) -> None:
    """Where a disk in use is why something waits; no reference is shown to anybody."""
    site.configure(host_name="alpha", gc_quiet_seconds=0)
    sr = site.create_sr()
    disk = site.create_vdi(sr, "qcow2", name="web")
    site.delete(site.snapshot(disk))
    site.activate(disk, "--read-only")
    for words in (("gc", "status"), ("gc", "plan"), ("gc", "run", "--sr", sr)):
        ended = site.process(*COMMAND, *words)
        assert "OpaqueRef" not in ended.stdout + ended.stderr
        if words[1] != "run":
            assert "on alpha" in ended.stdout
    site.deactivate(disk)
