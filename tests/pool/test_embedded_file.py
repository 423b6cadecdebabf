"""The database file: what reading leaves alone, and which files are refused."""

import shutil
import sqlite3
import stat
import subprocess
from pathlib import Path

import pytest

from sm.errors import HostUnreachable, PoolError, RecordMissing, SrInUse
from sm.pool.base import NewVdi, Pool, PoolAdmin
from sm.pool.embedded import EmbeddedPool
from sm.pool.embedded.schema import LATEST, MIGRATIONS
from sm.pool.errors import PoolUnreachable, RecordExists, UnstorableText
from tests.pool.conftest import HOST_UUID, PoolSite
from tests.pool.test_embedded_processes import HERE, command

VDI_UUID = "8a3f5a5e-3e0c-4c0e-8f2d-000000000001"


@pytest.fixture
def admin(embedded: PoolSite) -> PoolAdmin:
    assert isinstance(embedded.pool, PoolAdmin)
    return embedded.pool


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
    subprocess.run(argv, check=True, timeout=60, cwd=HERE)
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
    subprocess.run(argv, check=True, timeout=20, cwd=HERE)
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


def test_hosts_share_a_file(embedded: PoolSite, database: Path) -> None:
    with EmbeddedPool(database, "another", "there") as other:
        assert other.this_host().name_label == "there"
        assert [host.name_label for host in other.hosts()] == ["here", "there"]
    assert embedded.pool.this_host().name_label == "here"
    assert len(embedded.pool.hosts()) == 2


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


def test_a_host_says_where_it_answers(admin: PoolAdmin) -> None:
    here = admin.this_host().ref
    admin.set_host_address(here, "unix:/run/x")
    assert admin.this_host().address == "unix:/run/x"
    other = admin.add_host("host-2", "second")
    for ref in (here, other):  # neither has a service
        with pytest.raises(HostUnreachable, match=admin.hosts()[0].uuid + "|host-2"):
            admin.call_host(ref, "look", {})
    for missing in (
        lambda: admin.set_host_address("no", ""),
        lambda: admin.call_host("no", "look", {}),
        lambda: admin.remove_host("no"),
    ):
        with pytest.raises(RecordMissing):
            missing()


def test_a_shared_sr_has_the_host_that_made_it_as_master(
    embedded: PoolSite, admin: PoolAdmin, database: Path
) -> None:
    admin.set_pbd_attached(admin.pbds(embedded.sr_ref)[0].ref, False)
    sr = admin.introduce_sr(uuid="sr-2", sr_type="file", shared=True)
    assert admin.is_sr_master(admin.sr(sr))
    with EmbeddedPool(database, "host-2", "there") as other:
        assert not other.is_sr_master(other.sr(sr))
        pbd = other.create_pbd(sr, other.this_host().ref, {})
        other.set_pbd_attached(pbd, True)
        with pytest.raises(SrInUse, match="SR sr-2"):
            other.remove_host(admin.this_host().ref)
        there = other.this_host().ref
    with pytest.raises(SrInUse, match="PBD"):
        admin.remove_host(there)
    admin.set_pbd_attached(pbd, False)
    admin.remove_host(there)
    assert admin.pbds(sr) == []
    assert [host.uuid for host in admin.hosts()] == [HOST_UUID]


def test_text_that_is_no_unicode_is_refused(embedded: PoolSite) -> None:
    with pytest.raises(UnstorableText):
        embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1, name_label="\udcff"))
    assert embedded.pool.vdis(embedded.sr_ref) == []


def test_an_interrupted_write_leaves_nothing(embedded: PoolSite) -> None:
    bad = {"good": "value", "bad": "\udcff"}
    with pytest.raises(UnstorableText):
        embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1, sm_config=bad))
    assert embedded.pool.vdis(embedded.sr_ref) == []
    embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, 1))


def test_the_administrator_keeps_srs(admin: PoolAdmin) -> None:
    sr = admin.introduce_sr(
        uuid="sr-2", sr_type="nfs", name_label="n", shared=True, sm_config={"nosubdir": "true"}
    )
    with pytest.raises(RecordExists):
        admin.introduce_sr(uuid="sr-2", sr_type="nfs")
    admin.rename_sr(sr, name_label="new", name_description="words")
    record = admin.sr(sr)
    assert (record.name_label, record.name_description) == ("new", "words")
    assert (record.type, record.shared, record.sm_config) == ("nfs", True, {"nosubdir": "true"})
    host = admin.add_host("host-2", "second")
    pbd = admin.create_pbd(sr, host, {"server": "s"})
    with pytest.raises(RecordExists):
        admin.create_pbd(sr, host, {})
    with pytest.raises(RecordExists):
        admin.add_host("host-2", "again")
    admin.set_pbd_attached(pbd, True)
    with pytest.raises(SrInUse):
        admin.delete_pbd(pbd)
    admin.set_pbd_attached(pbd, False)
    admin.delete_pbd(pbd)
    assert admin.pbds(sr) == []


def test_a_forgotten_sr_takes_its_records_with_it(embedded: PoolSite, admin: PoolAdmin) -> None:
    other = admin.introduce_sr(uuid="sr-2", sr_type="file")
    kept = admin.introduce_vdi(NewVdi("kept", other, 1))
    admin.introduce_vdi(NewVdi("gone", embedded.sr_ref, 1, sm_config={"a": "b"}))
    admin.create_task("t", embedded.sr_ref)
    admin.forget_sr(embedded.sr_ref)
    assert [sr.uuid for sr in admin.srs()] == ["sr-2"]
    assert admin.pbds(embedded.sr_ref) == []
    assert admin.vdis(embedded.sr_ref) == []
    assert admin.tasks(embedded.sr_ref) == []
    assert admin.vdi(kept).uuid == "kept"


def test_the_administrator_is_told_what_is_missing(admin: PoolAdmin, embedded: PoolSite) -> None:
    host = admin.this_host().ref
    for attempt in (
        lambda: admin.forget_sr("no"),
        lambda: admin.rename_sr("no", name_label="", name_description=""),
        lambda: admin.create_pbd("no", host, {}),
        lambda: admin.create_pbd(embedded.sr_ref, "no", {}),
        lambda: admin.set_pbd_attached("no", True),
        lambda: admin.delete_pbd("no"),
        lambda: admin.create_task("t", "no"),
    ):
        with pytest.raises(RecordMissing):
            attempt()


def test_a_rule_of_the_tables_is_a_pool_error(embedded: PoolSite) -> None:
    with pytest.raises(PoolError, match="virtual_size"):
        embedded.pool.introduce_vdi(NewVdi(VDI_UUID, embedded.sr_ref, None))  # type: ignore[arg-type]
    pool: Pool = embedded.pool
    assert pool.vdis(embedded.sr_ref) == []
