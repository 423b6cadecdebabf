"""`sm-gc` for a whole host: a worker for each SR, watched; what systemd hears; kicks from afar."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from pathlib import Path
from typing import Any

import pytest

from sm import config
from sm.gc.service import supervisor
from sm.gc.service.notify import Notifier
from sm.gc.service.supervisor import summary
from sm.gc.service.worker import GLANCE_SECONDS
from sm.gc.state.status import RunningJob, State, Status, status_path
from sm.kick import PASS_ON, kick_anywhere, send, short_address, supervisor_path
from sm.owner import Owner
from sm.pool.open import open_pool
from tests.gc.running import GC, collector, copying, end, status
from tests.gc.service.test_worker import several
from tests.hosts.hosts import Host
from tests.support.patience import patient, until
from tests.support.site import MIB, Site

pytestmark = pytest.mark.one_in(2)

UNIT = Path(__file__).parents[3] / "etc" / "systemd" / "sm-gc.service"


def worker(site: Site, sr: str) -> int | None:
    """The process that collects an SR."""
    found = status(site, sr)
    if found.state is State.STOPPED:
        return None
    return Owner.parse(found.owner).pid


def gone(pid: int | None) -> bool:
    """Whether a process has ended."""
    return not Path(f"/proc/{pid}").exists()


class Manager:
    """What systemd would hear."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "notify"
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(self.path))
        self._socket.settimeout(0.05)

    def hears(self, true: Callable[[dict[str, str]], Any]) -> dict[str, str]:
        """Wait for a message; returns it."""

        def heard() -> dict[str, str] | None:
            try:
                text = self._socket.recv(4096).decode()
            except TimeoutError:
                return None
            message = dict(line.split("=", 1) for line in text.splitlines())
            return message if true(message) else None

        found = until(heard, "a message to systemd")
        assert found is not None
        return found

    def looks(self, times: int) -> None:
        """Wait until the supervisor has looked after everything so many times more."""
        self.drain()
        for _ in range(times + 1):  # the first one may have begun before
            self.hears(lambda said: "WATCHDOG" in said)

    def drain(self) -> list[str]:
        """All that was said up to now."""
        found = []
        try:
            while True:
                found.append(self._socket.recv(4096).decode())
        except TimeoutError:
            return found

    def close(self) -> None:
        """Hear no more."""
        self._socket.close()


@pytest.fixture
def manager(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Manager]:
    made = Manager(tmp_path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(made.path))
    monkeypatch.setenv("WATCHDOG_USEC", "30000000")
    yield made
    made.close()


def test_workers_come_and_go_with_their_srs(manager: Manager, site: Site) -> None:
    site.configure(gc_quiet_seconds=0)
    first = site.create_sr("one")
    with collector(site) as process:
        assert "READY" in manager.hears(lambda said: said)
        until(lambda: worker(site, first), "the first worker")
        second = site.create_sr("two")
        until(lambda: worker(site, second), "the second worker")
        manager.hears(lambda said: said["STATUS"] == "2 SRs: 2 idle" and said["WATCHDOG"] == "1")
        disk = site.create_vdi(second, "vhd")
        snapshot = site.snapshot(disk)
        site.delete(snapshot)
        until(lambda: site.images(second) == {disk}, "the work")
        left = worker(site, first)
        site.sm("sr", "detach", first)
        until(lambda: gone(left), "the end of the first worker")
        site.sm("sr", "attach", first)
        until(lambda: worker(site, first), "the first worker again")
        pids = [worker(site, sr) for sr in (first, second)]
        assert end(process) == 0
        assert all(map(gone, pids))
        manager.hears(lambda said: "STOPPING" in said)
    assert not supervisor_path(site.root / "run").exists()


def test_one_supervisor_for_a_host(site: Site) -> None:
    site.create_sr()
    with collector(site):
        until(supervisor_path(site.root / "run").exists, "its start")
        ended = site.process(*GC[1:], timeout=patient(30))
        assert ended.returncode == 1
        assert "supervisor" in ended.stderr
        assert "Traceback" not in ended.stderr


def test_a_worker_that_crashes_is_started_again_later_each_time(site: Site) -> None:
    """How much later: `test_the_wait_after_a_crash_doubles`."""
    scene, (disk,) = several(site, "vhd", 1)
    site.configure(gc_quiet_seconds=0)
    with collector(site):
        for _ in range(2):
            until(lambda: copying(site, scene.sr), "a copy")
            os.kill(worker(site, scene.sr) or 0, signal.SIGKILL)
            until(lambda: worker(site, scene.sr) is None, "the crash")
        site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "none")
        until(lambda: site.images(scene.sr) == {disk}, "the work")
        until(lambda: status(site, scene.sr).state is State.IDLE, "rest")
    scene.verify_tidy(1)


def test_the_wait_after_a_crash_doubles(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to a limit, and from the start again after a life that was long enough."""
    now = [1000.0]
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: now[0])
    settings = config.load(site.root)
    with open_pool(settings, None) as pool:
        watching = supervisor.Supervisor(settings, pool)
        charge = supervisor._Charge("sr")

        def crash(lived: float) -> float:
            """How long is waited after a worker that lived so long."""
            ended = subprocess.Popen(["false"], stdin=subprocess.PIPE)
            ended.wait()
            charge.child, charge.started = ended, now[0]  # type: ignore[assignment]
            now[0] += lived
            watching._reap(charge)
            return charge.not_before - now[0]

        assert [crash(0.5) for _ in range(8)] == [1, 2, 4, 8, 16, 32, 60, 60]
        assert [crash(lived) for lived in (61, 1, 61)] == [1, 2, 1]


def test_a_worker_that_hangs_is_killed(manager: Manager, site: Site) -> None:
    """Stopped by a signal it says nothing; then systemd does not hear either that all is well."""
    hang_seconds = 2 * GLANCE_SECONDS + patient(0.5)
    site.configure(gc_quiet_seconds=0, gc_hang_seconds=hang_seconds)
    sr = site.create_sr()
    with collector(site) as process:
        until(lambda: worker(site, sr), "the worker")
        until(lambda: status(site, sr).state is State.IDLE, "rest")
        hung = worker(site, sr)
        said = status_path(site.root / "run", sr)
        late = said.stat().st_mtime + 1.5 * hang_seconds
        until(lambda: said.stat().st_mtime > late, "a word of a worker at rest")
        manager.looks(1)
        assert worker(site, sr) == hung, "one at rest was taken for hung"
        os.kill(hung or 0, signal.SIGSTOP)
        manager.drain()
        manager.hears(lambda said: "WATCHDOG" not in said)
        until(lambda: gone(hung), "its end", 60)
        until(lambda: worker(site, sr), "another worker")
        manager.hears(lambda said: "WATCHDOG" in said)
        assert process.poll() is None


def test_workers_end_with_their_supervisor(site: Site) -> None:
    sr = site.create_sr()
    with collector(site) as process:
        until(lambda: worker(site, sr), "the worker")
        left = worker(site, sr)
        process.kill()
        process.wait()
        until(lambda: gone(left), "the end of the worker")


def test_quiet_after_an_attach_but_not_when_asked(site: Site) -> None:
    scene, (disk,) = several(site, "vhd", 1)
    site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "none")
    site.sm("sr", "detach", scene.sr)
    attached = time.time()
    site.sm("sr", "attach", scene.sr)
    quiet = site.repository(scene.sr).settings.gc_quiet_seconds
    latest = time.time() + quiet
    other = site.create_vdi(scene.sr, "vhd")
    with collector(site):
        until(lambda: status(site, scene.sr).state is State.QUIET, "the quiet time")
        site.delete(other)
        until(lambda: other not in site.images(scene.sr), "the deletion")
        until(lambda: status(site, scene.sr).state is State.QUIET, "the quiet time again")
        waiting = {each.image: each for each in status(site, scene.sr).waiting}
        assert waiting[disk].code == "quiet"
        # The worker's clock of the wall is right within a second.
        assert attached + quiet - 1 <= (waiting[disk].next_attempt or 0) <= latest + 1
        report = site.sm("gc", "run", "--sr", scene.sr)
        assert report["done"][-1]["action"] == "leaf-coalesce"
    scene.verify_tidy(1)


def test_a_run_by_hand_and_a_supervisor_take_turns(manager: Manager, site: Site) -> None:
    """While a command collects, the supervisor starts nothing; after it, it does."""
    scene, (disk,) = several(site, "vhd", 1)
    site.configure(gc_quiet_seconds=0)
    by_hand = site.start("gc", "run", "--sr", scene.sr)
    until(lambda: copying(site, scene.sr), "a copy")
    with collector(site):
        until(supervisor_path(site.root / "run").exists, "its start")
        manager.looks(2)
        assert worker(site, scene.sr) == by_hand.pid
        site.sm("gc", "limit", "--sr", scene.sr, "--rate-mib", "none")
        assert site.result(by_hand)["done"][-1]["leaf"] == disk
        until(lambda: worker(site, scene.sr), "the worker")
    scene.verify_tidy(1)


def test_activation_on_another_host_kicks_the_master(manager: Manager, tmp_path: Path) -> None:
    """Its supervisor passes the kick on; without one, or without an answer, nothing is missed."""
    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database) for name in ("alpha", "beta"))
    first.start()
    location = f"location={tmp_path / 'images'}"
    shared = first.sm("sr", "create", "--name", "s", "--shared", "--device-config", location)
    sr = str(shared["uuid"])
    second.sm("sr", "attach", sr)
    disk = first.create_vdi(sr, "vhd", 4 * MIB)
    heard = first.root / "run" / "gc" / f"{sr}.sock"
    try:
        second.sm("vdi", "activate", disk)  # nobody listens anywhere
        with collector(second), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as kicks:
            until(supervisor_path(second.root / "run").exists, "the supervisor")
            heard.parent.mkdir(parents=True, exist_ok=True)
            with short_address(heard) as address:
                kicks.bind(address)
            kicks.settimeout(patient(30))
            second.sm("vdi", "deactivate", disk)
            assert kicks.recv(64) == b"kick"
            assert worker(second, sr) is None, "it is not the master"
            first.kill()
            second.sm("vdi", "activate", disk)
            second.sm("vdi", "deactivate", disk)
            assert send(supervisor_path(second.root / "run"), PASS_ON + b"\xff../nonsense")
            kick_anywhere(second.root / "run", sr)
            manager.looks(2)
    finally:
        if first.service is not None:
            first.kill()


def test_loss_of_mastership_ends_a_worker(tmp_path: Path) -> None:
    import sqlite3

    database = tmp_path / "pool.db"
    first, second = (Host(tmp_path, name, database, gc_quiet_seconds="0") for name in "ab")
    location = f"location={tmp_path / 'images'}"
    shared = first.sm("sr", "create", "--name", "s", "--shared", "--device-config", location)
    sr = str(shared["uuid"])
    second.sm("sr", "attach", sr)
    with collector(first), collector(second):
        until(lambda: worker(first, sr), "the master's worker")
        left = worker(first, sr)
        with sqlite3.connect(database) as connection:
            connection.execute("UPDATE sr SET master = ?", (second.ref,))
        until(lambda: gone(left), "its end")
        until(lambda: worker(second, sr), "the new master's worker")
        assert worker(first, sr) is None


def test_the_line_about_all_srs() -> None:
    job = RunningJob("1", "coalesce", ("a",), 0, bytes_done=3 << 20, bytes_total=9 << 20)
    working = Status("a", "", State.WORKING, 0, 0, jobs=(job, job))
    idle = Status("b", "", State.IDLE, 0, 0)
    assert summary([]) == "no SR to collect"
    assert summary([idle, None]) == "2 SRs: 1 idle, 1 starting"
    said = "2 SRs: 1 working, 1 idle; 2 jobs, 6 of 18 MiB, 0 MiB/s"
    assert summary([working, idle]) == said


def test_a_notifier_without_systemd_is_silent() -> None:
    Notifier({}).say(READY="1")
    Notifier({"NOTIFY_SOCKET": "/nowhere/at/all"}).say(READY="1")
    assert Notifier({"WATCHDOG_USEC": "2000000"}).watchdog_seconds == 2
    assert Notifier({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}).watchdog_seconds is None
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as abstract:
        abstract.bind(f"\0sm-test-{os.getpid()}")
        Notifier({"NOTIFY_SOCKET": f"@sm-test-{os.getpid()}"}).say(READY="1", STATUS="here")
        assert abstract.recv(100) == b"READY=1\nSTATUS=here"


def test_the_unit(tmp_path: Path) -> None:
    parser = ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read_string(UNIT.read_text())
    service = parser["Service"]
    assert (service["Type"], service["ExecStart"]) == ("notify", "/usr/bin/env sm-gc")
    assert float(service["WatchdogSec"]) > 180, "a hung worker is killed first"
    tool = shutil.which("systemd-analyze")
    if tool is not None:
        shutil.copy(UNIT, tmp_path / UNIT.name)
        ended = subprocess.run(
            [tool, "verify", str(tmp_path / UNIT.name)], capture_output=True, text=True, check=False
        )
        assert (ended.returncode, ended.stderr) == (0, "")


def test_a_status_is_no_temporary_file(site: Site) -> None:
    sr = site.create_sr()
    site.sm("gc", "run", "--sr", sr)
    folder = status_path(site.root / "run", sr).parent
    assert [path.name for path in folder.iterdir()] == [f"{sr}.status.json"]
