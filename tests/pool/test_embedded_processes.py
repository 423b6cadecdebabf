"""Many processes on one database: races, deaths and forks."""

import math
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import psycopg
import pytest

from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from tests.pool.children import KEYS
from tests.pool.conftest import PoolSite
from tests.pool.postgresql_server import PostgresqlServer
from tests.support.patience import patient
from tests.support.tiers import SOAK, every

HERE = Path(__file__).resolve().parents[2]
RACERS = 8 if SOAK else 4
HOSTS = RACERS // 2
CHILD_SECONDS = math.ceil(patient(30))
"""After which a forked process that hangs is ended."""
DIES_OPEN = """
import os, signal, sqlite3, sys
import psycopg
place = sys.argv[1]
if "://" in place:
    connection = psycopg.connect(place, options="-c search_path=sm")
else:
    connection = sqlite3.connect(place)
assert connection.execute("DELETE FROM sr").rowcount == 1
os.kill(os.getpid(), signal.SIGKILL)
"""
VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


def command(work: str, place: Path | str, *arguments: object) -> list[str]:
    words = [sys.executable, "-m", "tests.pool.children", work, place, *arguments]
    return [str(word) for word in words]


def start(
    work: str, place: Path | str, *arguments: object, **streams: int
) -> subprocess.Popen[str]:
    argv = command(work, place, *arguments)
    return subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=HERE, **streams)


def rest_of(process: subprocess.Popen[str]) -> str:
    """All that is left of a process's output, once it has ended.

    `communicate` would pass over what was read ahead together with an earlier line.
    """
    assert process.stdout is not None
    with process.stdout as output:
        rest = output.read()
    process.wait(patient(60))
    return rest


def check(place: Path | str, acknowledged: list[str]) -> set[str]:
    """The UUIDs of all VDIs, each whole, by the database's own checks and without our code."""
    query = (
        "SELECT uuid, count(key), sum(length(value)) FROM vdi"
        " LEFT JOIN vdi_sm_config ON owner = ref GROUP BY ref, uuid"
    )
    rows: list[tuple[str, int, int]]
    if isinstance(place, Path):
        with closing(sqlite3.connect(place)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
            rows = connection.execute(query).fetchall()
    else:
        with psycopg.connect(place, options="-c search_path=sm") as reader:
            rows = reader.execute(query.encode()).fetchall()
    whole = (len(KEYS), sum(map(len, KEYS.values())))
    assert [row[0] for row in rows if row[1:] != whole] == []
    found = {row[0] for row in rows}
    assert set(acknowledged) <= found
    return found


@pytest.mark.one_in(2)
def test_of_many_processes_one_gets_each_key(kept: PoolSite, tmp_path: Path) -> None:
    vdi = kept.pool.introduce_vdi(NewVdi(VDI_UUID, kept.sr_ref, 1))
    rounds, gate = 50, tmp_path / "gate"
    racers = [start("race", kept.place, vdi, me, rounds, gate) for me in range(RACERS)]
    for racer in racers:
        assert racer.stdout is not None
        assert racer.stdout.readline() == "ready\n"
    gate.touch()
    won = {}
    for me, racer in enumerate(racers):
        output, _ = racer.communicate(timeout=patient(60))
        assert racer.returncode == 0
        for line in output.split():
            assert f"host_{line}" not in won
            won[f"host_{line}"] = str(me)
    assert len(won) == rounds
    assert kept.pool.vdi(vdi).sm_config == won


@pytest.mark.one_in(2)
def test_who_publishes_and_then_looks_is_seen_or_sees(kept: PoolSite) -> None:
    """What claims and host keys rest on: of two hosts, one at least sees the other's key."""
    rounds = 200 if SOAK else 50
    hosts = [
        start("publish", kept.place, kept.sr_ref, me, rounds, stdin=subprocess.PIPE) for me in "ab"
    ]
    outputs = [host.stdout for host in hosts if host.stdout is not None]
    assert [output.readline() for output in outputs] == ["ready\n"] * 2
    for number in range(rounds):
        for host in hosts:
            assert host.stdin is not None
            host.stdin.write("go\n")
            host.stdin.flush()
        seen = [set(output.readline().split()) for output in outputs]
        both = {f"{number}-a", f"{number}-b"}
        assert both in seen
        assert all(f"{number}-{me}" in found for me, found in zip("ab", seen, strict=True))
    assert [(host.communicate(timeout=patient(60)), host.returncode)[1] for host in hosts] == [
        0
    ] * 2


@pytest.mark.one_in(2)
@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_many_processes_make_one_database(
    kind: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    places: list[Path | str] = [tmp_path / f"{number}.db" for number in range(5)]
    if kind == "postgresql":
        server: PostgresqlServer = request.getfixturevalue("server")
        places = [server.url(server.create_database()) for _ in places]
    gate = tmp_path / "gate"
    makers = [
        start("register", tmp_path / "unused.db", f"host-{me % HOSTS}", gate, *places)
        for me in range(RACERS)
    ]
    outputs = [maker.stdout for maker in makers if maker.stdout is not None]
    for number, place in enumerate(places):
        assert [output.readline() for output in outputs] == ["ready\n"] * RACERS
        gate.with_name(f"gate-{number}").touch()
        refs = [output.readline().strip() for output in outputs]
        assert refs[:HOSTS] == refs[HOSTS:]
        assert len(set(refs)) == HOSTS
        with EmbeddedPool(place, "host-0", "here") as pool:
            assert {host.ref for host in pool.hosts()} == set(refs)
        check(place, [])
    assert [(maker.communicate(timeout=patient(60)), maker.returncode)[1] for maker in makers] == [
        0
    ] * RACERS


def test_killed_at_every_write(embedded: PoolSite, database: Path) -> None:
    """SIGKILL at one write or sync in eight, or at each, until the work is done before it."""
    embedded.pool.close()
    acknowledged: list[str] = []
    first, step = every(8, f"writes of the pool, {database.name}")
    for number in range(1 + first, 200, step):
        argv = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", "trace=pwrite64,fdatasync,fsync"]
        argv += ["-e", f"inject=pwrite64,fdatasync,fsync:signal=SIGKILL:when={number}", "--"]
        argv += command("introduce", database, embedded.sr_ref, f"at-{number}", 1)
        ended = subprocess.run(
            argv, check=False, capture_output=True, text=True, timeout=patient(60), cwd=HERE
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


@pytest.mark.one_in(2)
def test_killed_at_any_time(kept: PoolSite) -> None:
    acknowledged: list[str] = []
    for number in range(8):
        writer = start("introduce", kept.place, kept.sr_ref, f"run-{number}", 1_000_000)
        assert writer.stdout is not None
        first = writer.stdout.readline().strip()
        time.sleep(0.01 * number)
        writer.kill()
        rest = rest_of(writer)
        # A line may have been cut by the kill.
        complete = rest[: rest.rfind("\n") + 1].split()
        acknowledged += [first, *complete]
        kept.pool.add_to_sr_sm_config(kept.sr_ref, f"after-{number}", "x")
        check(kept.place, acknowledged)
    assert len(kept.pool.sr(kept.sr_ref).sm_config) == 8


def test_a_transaction_that_dies_open_leaves_nothing(kept: PoolSite) -> None:
    # Neither program commits by itself.
    argv = [sys.executable, "-c", DIES_OPEN, str(kept.place)]
    ended = subprocess.run(argv, check=False, timeout=patient(60))
    assert ended.returncode == -signal.SIGKILL
    kept.pool.add_to_sr_sm_config(kept.sr_ref, "a", "b")
    assert kept.pool.sr(kept.sr_ref).sm_config == {"a": "b"}
    check(kept.place, [])


def test_both_sides_of_a_fork_go_on(kept: PoolSite) -> None:
    sr = kept.sr_ref
    kept.pool.add_to_sr_sm_config(sr, "before", "x")
    child = os.fork()
    if child == 0:
        signal.alarm(CHILD_SECONDS)
        code = 1
        try:
            for number in range(20):
                kept.pool.add_to_sr_sm_config(sr, f"child-{number}", "x")
            kept.pool.close()
            code = 0
        finally:
            os._exit(code)
    for number in range(20):
        kept.pool.add_to_sr_sm_config(sr, f"parent-{number}", "x")
    _, status = os.waitpid(child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    wanted = {f"{who}-{number}" for who in ("child", "parent") for number in range(20)}
    assert set(kept.pool.sr(sr).sm_config) == {"before"} | wanted
    check(kept.place, [])


def test_a_fork_beside_a_busy_thread(kept: PoolSite) -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    def work() -> None:
        number = 0
        while not stop.is_set():
            try:
                kept.pool.add_to_sr_other_config(kept.sr_ref, str(number), "x")
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
                    kept.pool.add_to_sr_sm_config(kept.sr_ref, f"child-{number}", "x")
                    code = 0
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    finally:
        stop.set()
        worker.join()
    assert failures == []
    assert len(kept.pool.sr(kept.sr_ref).sm_config) == 20
