"""Choosing a pool database, what that imports, and a large SR in each."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from sm.config import Credentials
from sm.errors import InvalidArgument
from sm.pool.base import NewVdi, PoolAdmin
from sm.pool.embedded import EmbeddedPool
from sm.pool.open import open_pool
from sm.pool.xapi import XapiPool
from tests.pool.conftest import HOST_UUID, PoolSite
from tests.pool.xapi_server import XapiServer

MANY = 10_000
HEAVY = ("XenAPI", "numpy", "psycopg", "pydantic", "rich", "xmlrpc")


@dataclass(frozen=True)
class Settings:
    pool_kind: str
    pool_database: Path | str
    xapi_socket: Path
    xapi_inventory: Path
    host_uuid: str = HOST_UUID
    host_name: str = "here"
    credentials: Credentials | None = None


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings("embedded", tmp_path / "p.db", tmp_path / "xapi_socket", tmp_path / "inventory")


def test_the_embedded_pool_is_ours_to_keep(settings: Settings) -> None:
    with open_pool(settings, None) as pool:
        assert isinstance(pool, EmbeddedPool)
        assert isinstance(pool, PoolAdmin)
        assert isinstance(settings.pool_database, Path)
        assert not settings.pool_database.exists()
        assert pool.this_host().uuid == HOST_UUID
        assert settings.pool_database.exists()


def test_a_url_names_a_postgresql_database(postgresql: PoolSite, tmp_path: Path) -> None:
    with open_pool(Settings("embedded", postgresql.place, tmp_path, tmp_path), None) as pool:
        assert isinstance(pool, EmbeddedPool)
        assert pool.srs() == postgresql.pool.srs()


@pytest.mark.parametrize("given", [True, False])
def test_xapi_with_and_without_a_session(
    xapi: PoolSite, xapi_server: XapiServer, tmp_path: Path, given: bool
) -> None:
    settings = Settings("xapi", tmp_path / "p.db", xapi_server.path, tmp_path / "inventory")
    session = xapi_server.new_session() if given else ""
    with open_pool(settings, session) as pool:
        assert isinstance(pool, XapiPool)
        assert pool.this_host().uuid == HOST_UUID
        assert xapi_server.logins == (0 if given else 1)
    assert xapi_server.sessions == ({session} if given else set())
    xapi_server.end_sessions()


def test_another_kind_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="ldap"):
        open_pool(Settings("ldap", tmp_path, tmp_path, tmp_path), None)


@pytest.mark.parametrize("module", ["sm.pool.base", "sm.pool.open", "sm.pool.embedded"])
def test_heavy_libraries_are_left_alone(module: str) -> None:
    script = f"import {module}, sys; print(*[n for n in {HEAVY!r} if n in sys.modules])"
    argv = [sys.executable, "-c", script]
    ended = subprocess.run(argv, check=True, capture_output=True, text=True)
    assert ended.stdout.split() == []


def test_many_vdis_in_the_embedded_pool(embedded: PoolSite, database: Path) -> None:
    embedded.pool.introduce_vdi(NewVdi("first", embedded.sr_ref, 1, sm_config={"a": "b"}))
    other = EmbeddedPool(database, HOST_UUID, "here")
    elsewhere = other.introduce_sr(uuid="other", sr_type="file")
    other.introduce_vdi(NewVdi("elsewhere", elsewhere, 1, sm_config={"a": "b"}))
    other.close()
    assert isinstance(embedded.pool, EmbeddedPool)
    with embedded.pool._database.writing() as connection:
        # Rows are multiplied by SQL: through the interface each would be synced by itself.
        connection.execute(
            "WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < ?)"
            " INSERT INTO vdi SELECT 'ref-' || i, 'uuid-' || i, sr, name_label,"
            " name_description, type, sharable, read_only, managed, location, i,"
            " physical_utilisation, metadata_of_pool, is_a_snapshot, snapshot_of, snapshot_time,"
            " cbt_enabled, missing, on_boot, allow_caching FROM vdi, n WHERE uuid = 'first'",
            (MANY - 1,),
        )
        connection.execute(
            "INSERT INTO vdi_sm_config SELECT ref, 'size', virtual_size FROM vdi"
            " WHERE uuid LIKE 'uuid-%'"
        )
        statements: list[str] = []
        connection.set_trace_callback(statements.append)
    found = embedded.pool.vdis(embedded.sr_ref)
    assert len([text for text in statements if text.startswith("SELECT")]) == 3
    assert len(found) == MANY
    assert {record.uuid for record in found} == {"first", *(f"uuid-{n}" for n in range(1, MANY))}
    for record in found:
        if record.uuid != "first":
            assert record.sm_config == {"size": str(record.virtual_size)}


def test_many_vdis_in_xapi(xapi: PoolSite, xapi_server: XapiServer) -> None:
    template = xapi_server.add_vdi(xapi.sr_ref)
    fields = xapi_server.records["VDI"].pop(template)
    for number in range(MANY):
        xapi_server.records["VDI"][f"OpaqueRef:{number}"] = {
            **fields,
            "uuid": f"uuid-{number}",
            "sm_config": {"n": str(number)},
        }
    found = xapi.pool.vdis(xapi.sr_ref)
    assert len(found) == MANY
    assert {record.uuid: record.sm_config["n"] for record in found} == {
        f"uuid-{number}": str(number) for number in range(MANY)
    }
