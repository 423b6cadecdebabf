"""Which PostgreSQL databases are refused, and what is said."""

import sys
from collections.abc import Sequence
from pathlib import Path

import psycopg
import pytest

from sm.errors import InvalidArgument, PoolError
from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from sm.pool.embedded import postgresql as module
from sm.pool.embedded.schema import LATEST, MIGRATIONS
from sm.pool.errors import PoolUnreachable, UnstorableText
from tests.pool.conftest import HOST_UUID, PoolSite
from tests.pool.postgresql_server import PostgresqlServer


def refused(url: str) -> str:
    """What is said of a database that cannot be used."""
    with (
        EmbeddedPool(url, HOST_UUID, "here") as pool,
        pytest.raises(PoolUnreachable) as raised,
    ):
        pool.srs()
    return str(raised.value)


def test_a_standby_is_refused(postgresql: PoolSite, server: PostgresqlServer) -> None:
    """What it shows may be older than what a host has published."""
    assert isinstance(postgresql.place, str)
    server.stop()
    signal = server.data / "standby.signal"
    signal.touch()
    server.start()
    assert "standby" in refused(postgresql.place)
    assert "target_session_attrs" in refused(postgresql.place)
    server.stop()
    signal.unlink()
    server.start()
    assert postgresql.pool.sr(postgresql.sr_ref).uuid == postgresql.sr_uuid


def test_a_server_that_does_not_sync_is_refused(
    postgresql: PoolSite, server: PostgresqlServer
) -> None:
    assert isinstance(postgresql.place, str)
    server.restart(fsync="off")
    assert "fsync" in refused(postgresql.place)


@pytest.mark.parametrize(("given", "used"), [("off", "on"), ("local", "local"), ("on", "on")])
def test_commits_wait_for_the_disk(
    postgresql_url: str, server: PostgresqlServer, given: str, used: str
) -> None:
    server.execute("postgres", f"ALTER ROLE postgres SET synchronous_commit = {given}")
    with EmbeddedPool(postgresql_url, HOST_UUID, "here") as pool:
        with pool._database.reading() as transaction:
            [row] = transaction.execute("SHOW synchronous_commit")
        assert row["synchronous_commit"] == used
    server.execute("postgres", "ALTER ROLE postgres RESET synchronous_commit")


def test_another_encoding_is_refused(server: PostgresqlServer) -> None:
    name = server.create_database("TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    assert "LATIN1" in refused(server.url(name))


def test_the_schema_of_another_program_is_refused(
    postgresql_url: str, postgresql_database: str, server: PostgresqlServer
) -> None:
    server.execute(postgresql_database, "CREATE SCHEMA sm")
    assert "another program" in refused(postgresql_url)


def test_tables_of_others_are_left_alone(
    postgresql_url: str, postgresql_database: str, server: PostgresqlServer
) -> None:
    server.execute(postgresql_database, "CREATE TABLE public.vdi (cookies text)")
    with EmbeddedPool(postgresql_url, HOST_UUID, "here") as pool:
        sr = pool.introduce_sr(uuid="sr", sr_type="file")
        pool.introduce_vdi(NewVdi("vdi", sr, 1))
    with psycopg.connect(postgresql_url) as connection:
        assert connection.execute("SELECT * FROM public.vdi").fetchall() == []


def test_a_newer_database_is_refused(postgresql: PoolSite) -> None:
    assert isinstance(postgresql.place, str)
    with psycopg.connect(postgresql.place) as connection:
        connection.execute("INSERT INTO sm.migration VALUES (%s, 'later')", (LATEST + 1,))
    assert "upgrade sm" in refused(postgresql.place)


def test_an_older_database_is_brought_up_to_date(
    postgresql: PoolSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: Sequence[Sequence[str]] = (
        *MIGRATIONS,
        ("ALTER TABLE sr ADD COLUMN later TEXT NOT NULL DEFAULT ''",),
    )
    monkeypatch.setattr(module, "MIGRATIONS", steps)
    monkeypatch.setattr(module, "LATEST", len(steps))
    with EmbeddedPool(postgresql.place, HOST_UUID, "here") as pool:
        with pool._database.reading() as transaction:
            [row] = transaction.execute("SELECT uuid, later FROM sr")
        assert (row["uuid"], row["later"]) == (postgresql.sr_uuid, "")
        # A program that is older, and runs, goes on with its connection.
        postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, "a", "b")


def test_a_step_that_fails_leaves_nothing(
    postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps = (
        *MIGRATIONS,
        ("CREATE TABLE half (x INTEGER)", "ALTER TABLE nowhere ADD COLUMN x TEXT"),
    )
    with monkeypatch.context() as changed:
        changed.setattr(module, "MIGRATIONS", steps)
        changed.setattr(module, "LATEST", len(steps))
        pool = EmbeddedPool(postgresql_url, HOST_UUID, "here")
        with pytest.raises(PoolError, match="nowhere"):
            pool.srs()
    with psycopg.connect(postgresql_url) as connection:
        query = "SELECT 1 FROM pg_namespace WHERE nspname = 'sm'"
        assert connection.execute(query).fetchall() == []
    with EmbeddedPool(postgresql_url, HOST_UUID, "here") as pool:
        assert pool.srs() == []


def test_a_role_without_rights_is_refused(
    postgresql_database: str, postgresql_url: str, server: PostgresqlServer
) -> None:
    server.execute("postgres", f"CREATE ROLE guest_of_{postgresql_database} LOGIN")
    url = postgresql_url.replace("postgres@", f"guest_of_{postgresql_database}@")
    assert "its owner must be the role" in refused(url)


@pytest.mark.parametrize("host", ["127.0.0.1:1", "%2Fnowhere"])
def test_a_place_that_cannot_be_is_named(host: str) -> None:
    said = refused(f"postgresql://user:secret@{host}/pool")
    assert host.partition(":")[0].replace("%2F", "/") in said
    assert "secret" not in said


def test_a_database_that_is_not_there_is_named(server: PostgresqlServer) -> None:
    assert "pool_none" in refused(server.url("pool_none"))


def test_a_url_that_is_none_is_refused_without_its_password() -> None:
    with pytest.raises(InvalidArgument) as raised:
        EmbeddedPool("postgresql://user:secret@host/pool?nonsense=secret", HOST_UUID, "here")
    assert "secret" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    monkeypatch.delitem(sys.modules, "sm.pool.embedded.postgresql")
    with pytest.raises(PoolUnreachable, match=r"pip install 'sm\[postgres\]'"):
        EmbeddedPool("postgresql://host/pool", HOST_UUID, "here")
    EmbeddedPool(Path("/nowhere/pool.db"), HOST_UUID, "here")


def test_text_with_a_zero_byte_is_refused(postgresql: PoolSite) -> None:
    ref = postgresql.pool.introduce_vdi(NewVdi("vdi", postgresql.sr_ref, 1))
    with pytest.raises(UnstorableText):
        postgresql.pool.update_vdi(ref, name_label="a\0b")
    assert postgresql.pool.vdi(ref).name_label == ""


def test_a_key_that_is_too_long_is_refused(postgresql: PoolSite) -> None:
    long = "".join(chr(0x4E00 + number) for number in range(3000))
    with pytest.raises(PoolError, match="index row"):
        postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, long, "x")
    postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, long[:850], "x")
    assert dict(postgresql.pool.sr(postgresql.sr_ref).sm_config) == {long[:850]: "x"}


def test_keys_are_compared_byte_by_byte(postgresql: PoolSite) -> None:
    assert isinstance(postgresql.place, str)
    with psycopg.connect(postgresql.place) as connection:
        found = connection.execute(
            "SELECT DISTINCT collation_name FROM information_schema.columns"
            " WHERE table_schema = 'sm' AND data_type = 'text'"
        ).fetchall()
    assert found == [("C",)]
