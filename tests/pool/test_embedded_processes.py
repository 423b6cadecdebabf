"""Many processes on one database: races, deaths and forks."""

import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from tests.pool.children import KEYS
from tests.pool.conftest import PoolSite

HERE = Path(__file__).resolve().parents[2]
CHILD_SECONDS = 30
"""After which a forked process that hangs is ended."""
VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


def command(work: str, database: Path, *arguments: object) -> list[str]:
    words = [sys.executable, "-m", "tests.pool.children", work, database, *arguments]
    return [str(word) for word in words]


def start(work: str, database: Path, *arguments: object) -> subprocess.Popen[str]:
    argv = command(work, database, *arguments)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=HERE)


def check(database: Path, acknowledged: list[str]) -> set[str]:
    """The UUIDs of all VDIs, each whole, by SQLite's own checks and without our code."""
    with sqlite3.connect(database) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        rows = connection.execute(
            "SELECT vdi.uuid, count(key), sum(length(value)) FROM vdi"
            " LEFT JOIN vdi_sm_config ON owner = ref GROUP BY ref"
        ).fetchall()
    connection.close()
    whole = (len(KEYS), sum(map(len, KEYS.values())))
    assert [row[0] for row in rows if row[1:] != whole] == []
    found = {row[0] for row in rows}
    assert set(acknowledged) <= found
    return found


def test_of_eight_processes_one_gets_each_key(
    embedded: PoolSite, database: Path, tmp_path: Path
) -> None:
    vdi = embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1))
    rounds, gate = 50, tmp_path / "gate"
    racers = [start("race", database, vdi, me, rounds, gate) for me in range(8)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    gate.touch()
    won = {}
    for me, racer in enumerate(racers):
        output, _ = racer.communicate(timeout=60)
        assert racer.returncode == 0
        for line in output.split():
            assert f"host_{line}" not in won
            won[f"host_{line}"] = str(me)
    assert len(won) == rounds
    assert embedded.pool.vdi(vdi).sm_config == won


def test_eight_processes_make_one_database(tmp_path: Path) -> None:
    rounds, gate = 10, tmp_path / "gate"
    makers = [
        start("register", tmp_path / "unused.db", f"host-{me % 4}", rounds, gate) for me in range(8)
    ]
    outputs = [maker.stdout for maker in makers if maker.stdout is not None]
    for number in range(rounds):
        assert [output.readline() for output in outputs] == ["ready\n"] * 8
        gate.with_name(f"gate-{number}").touch()
        refs = [output.readline().strip() for output in outputs]
        assert refs[:4] == refs[4:]
        assert len(set(refs)) == 4
        with EmbeddedPool(tmp_path / f"{number}.db", "host-0", "here") as pool:
            assert {host.ref for host in pool.hosts()} == set(refs)
        check(tmp_path / f"{number}.db", [])
    assert [(maker.communicate(timeout=60), maker.returncode)[1] for maker in makers] == [0] * 8


def test_killed_at_every_write(embedded: PoolSite, database: Path) -> None:
    """SIGKILL at the n-th write or sync, until the work is done before it."""
    embedded.pool.close()
    acknowledged: list[str] = []
    for number in range(1, 200):
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync,fsync"]
        argv += ["-e", f"inject=pwrite64,fdatasync,fsync:signal=SIGKILL:when={number}", "--"]
        argv += command("introduce", database, embedded.sr_ref, f"at-{number}", 1)
        ended = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=60, cwd=HERE
        )
        acknowledged += ended.stdout.split()
        check(database, acknowledged)
        # Others go on at once, over whatever was left.
        probe = embedded.pool.introduce_vdi(
            NewVdi(f"after-{number}", embedded.sr_ref, 1, sm_config=KEYS)
        )
        embedded.pool.forget_vdi(probe)
        embedded.pool.close()
        if ended.returncode == 0:
            break
        assert ended.returncode in (-signal.SIGKILL, 128 + signal.SIGKILL), ended.stderr
    else:
        pytest.fail("the work never ended")
    assert number > 5
    assert f"at-{number}-0" in acknowledged


def test_killed_at_any_time(embedded: PoolSite, database: Path) -> None:
    acknowledged: list[str] = []
    for number in range(8):
        writer = start("introduce", database, embedded.sr_ref, f"run-{number}", 1_000_000)
        assert writer.stdout is not None
        first = writer.stdout.readline().strip()
        time.sleep(0.01 * number)
        writer.kill()
        rest, _ = writer.communicate(timeout=60)
        # A line may have been cut by the kill.
        complete = rest[: rest.rfind("\n") + 1].split()
        acknowledged += [first, *complete]
        embedded.pool.add_to_sr_sm_config(embedded.sr_ref, f"after-{number}", "x")
        check(database, acknowledged)
    assert len(embedded.pool.sr(embedded.sr_ref).sm_config) == 8


def test_a_transaction_that_dies_open_leaves_nothing(embedded: PoolSite, database: Path) -> None:
    script = (
        "import os, signal, sqlite3, sys\n"
        "c = sqlite3.connect(sys.argv[1], isolation_level=None)\n"
        "c.execute('BEGIN IMMEDIATE')\n"
        "c.execute('DELETE FROM sr')\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    argv = [sys.executable, "-c", script, str(database)]
    ended = subprocess.run(argv, check=False, timeout=60)
    assert ended.returncode == -signal.SIGKILL
    embedded.pool.add_to_sr_sm_config(embedded.sr_ref, "a", "b")
    assert embedded.pool.sr(embedded.sr_ref).sm_config == {"a": "b"}
    check(database, [])


def test_both_sides_of_a_fork_go_on(embedded: PoolSite, database: Path) -> None:
    sr = embedded.sr_ref
    embedded.pool.add_to_sr_sm_config(sr, "before", "x")
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_SECONDS)
        code = 1
        try:
            for number in range(20):
                embedded.pool.add_to_sr_sm_config(sr, f"child-{number}", "x")
            embedded.pool.close()
            code = 0
        finally:
            os._exit(code)
    for number in range(20):
        embedded.pool.add_to_sr_sm_config(sr, f"parent-{number}", "x")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wanted = {f"{who}-{number}" for who in ("child", "parent") for number in range(20)}
    assert set(embedded.pool.sr(sr).sm_config) == {"before"} | wanted
    check(database, [])


def test_a_fork_beside_a_busy_thread(embedded: PoolSite) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        number = 0
        while not stop.is_set():
            try:
                embedded.pool.add_to_sr_other_config(embedded.sr_ref, str(number), "x")
            except BaseException as error:  # noqa: BLE001 - reported below
                failures.append(error)
                return
            number += 1
            time.sleep(0.001)  # the lock of a process is not fair

    worker = threading.Thread(target=work)
    worker.start()
    try:
        for number in range(20):
            child = os.fork()
            if child == 0:
                signal.alarm(CHILD_SECONDS)
                code = 1
                try:
                    embedded.pool.add_to_sr_sm_config(embedded.sr_ref, f"child-{number}", "x")
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join()
    assert failures == []
    assert len(embedded.pool.sr(embedded.sr_ref).sm_config) == 20
