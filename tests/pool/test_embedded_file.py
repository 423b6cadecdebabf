"""The database file: what reading leaves alone, and which files are refused."""

import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from sm.pool.embedded.schema import LATEST, MIGRATIONS
from sm.pool.errors import PoolUnreachable
from tests.pool.conftest import HOST_UUID, PoolSite
from tests.pool.test_embedded_processes import HERE, command
from tests.support.patience import patient

VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


def refused(database: Path) -> str:
    """What opening a file says, which must leave it as it is."""
    before = database.read_bytes()
    pool = EmbeddedPool(database, HOST_UUID, "here")
    with pytest.raises(PoolUnreachable) as raised:
        pool.srs()
    pool.close()
    assert database.read_bytes() == before
    return str(raised.value)


def test_reads_write_nothing(embedded: PoolSite, database: Path, tmp_path: Path) -> None:
    vdi = embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1))
    embedded.pool.close()
    before = database.read_bytes()
    trace = tmp_path / "trace"
    names = "pwrite64,write,ftruncate,fsync,fdatasync,rename,unlink"
    argv = ["strace", "-f", "-y", "-qq", "-o", str(trace), "-e", f"trace={names}", "--"]
    argv += command("read", database, embedded.sr_ref, vdi)
    subprocess.run(argv, check=True, timeout=patient(60), cwd=HERE)
    # SQLite keeps the index of its log in memory that is shared through the -shm file, and takes
    # both away at the end; that is no content.
    touched = [
        line
        for line in trace.read_text().splitlines()
        if str(database) in line and "-shm" not in line and "unlink(" not in line
    ]
    assert touched == []
    assert database.read_bytes() == before


def test_reads_do_not_wait_for_a_writer(embedded: PoolSite, database: Path) -> None:
    vdi = embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1))
    writer = sqlite3.connect(database, isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    writer.execute("DELETE FROM sr")
    argv = command("read", database, embedded.sr_ref, vdi)
    subprocess.run(argv, check=True, timeout=patient(20), cwd=HERE)
    assert embedded.pool.vdi(vdi).uuid == VDI_UUID
    writer.execute("ROLLBACK")
    writer.close()


def test_the_file_is_for_its_owner_alone(embedded: PoolSite, database: Path) -> None:
    embedded.pool.srs()
    for path in database.parent.glob("pool.db*"):
        if path.suffix != ".upgrade":
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_newer_database_is_refused(embedded: PoolSite, database: Path) -> None:
    embedded.pool.close()
    with sqlite3.connect(database) as connection:
        connection.execute("INSERT INTO migration VALUES (?, 'later')", (LATEST + 1,))
    connection.close()
    assert "upgrade sm" in refused(database)


def test_the_file_of_another_program_is_refused(database: Path) -> None:
    database.parent.mkdir()
    with sqlite3.connect(database) as connection:
        connection.execute("CREATE TABLE cookies (name TEXT)")
    connection.close()
    assert "another program" in refused(database)


@pytest.mark.parametrize("content", [b"no database " * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
def test_rubbish_is_refused_with_advice(database: Path, content: bytes) -> None:
    database.parent.mkdir()
    database.write_bytes(content)
    assert "move it away" in refused(database)


def test_damage_is_reported_with_advice(embedded: PoolSite, database: Path) -> None:
    for number in range(200):
        embedded.pool.introduce_vdi(NewVdi(f"vdi-{number}", embedded.sr_ref, 1))
    embedded.pool.close()
    content = bytearray(database.read_bytes())
    content[8192:] = b"\xa5" * (len(content) - 8192)
    database.write_bytes(content)
    with pytest.raises(PoolUnreachable, match="move it away"):
        embedded.pool.vdis(embedded.sr_ref)


def test_a_place_that_cannot_be_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    pool = EmbeddedPool(tmp_path / "file" / "pool.db", HOST_UUID, "here")
    with pytest.raises(PoolUnreachable, match=r"file/pool\.db"):
        pool.srs()


def test_a_stopped_upgrade_is_continued(tmp_path: Path, database: Path) -> None:
    """The states that a crash may leave: an empty file, and an empty one in WAL mode."""
    database.parent.mkdir()
    database.touch()
    with EmbeddedPool(database, HOST_UUID, "here") as pool:
        assert pool.srs() == []
    shutil.rmtree(database.parent)
    database.parent.mkdir()
    connection = sqlite3.connect(database)
    connection.execute("PRAGMA journal_mode = WAL")
    connection.close()
    with EmbeddedPool(database, HOST_UUID, "here") as pool:
        assert pool.srs() == []


def test_a_database_of_the_first_version_keeps_what_it_holds(database: Path) -> None:
    database.parent.mkdir()
    connection = sqlite3.connect(database, isolation_level=None)
    for statement in MIGRATIONS[0]:
        connection.execute(statement)
    connection.execute("INSERT INTO migration VALUES (1, 'then')")
    connection.execute("INSERT INTO host VALUES ('OpaqueRef:h', ?, 'old', 1)", (HOST_UUID,))
    connection.execute(
        "INSERT INTO sr (ref, uuid, name_label, name_description, type, shared)"
        " VALUES ('OpaqueRef:s', 'sr-1', 'n', '', 'file', 0)"
    )
    connection.close()
    with EmbeddedPool(database, HOST_UUID, "here") as pool:
        host = pool.this_host()
        assert (host.ref, host.name_label, host.address) == ("OpaqueRef:h", "old", "")
        (sr,) = pool.srs()
        assert (sr.uuid, sr.master) == ("sr-1", "")
        assert pool.is_sr_master(sr)
    with sqlite3.connect(database) as connection:
        assert connection.execute("SELECT max(version) FROM migration").fetchone() == (LATEST,)
    connection.close()
