"""What is lost with a PostgreSQL server, or with the connection to it, and what is said of it."""

import math
import subprocess
import threading
import time
from collections.abc import Iterator

import psycopg
import pytest

from sm.errors import DuplicateKey
from sm.pool.base import NewVdi
from sm.pool.embedded import EmbeddedPool
from sm.pool.embedded import postgresql as module
from sm.pool.errors import PoolBusy, PoolOutcomeUnknown, PoolUnreachable
from tests.pool.conftest import HOST_UUID, PoolSite
from tests.pool.postgresql_proxy import Break, PostgresqlProxy
from tests.pool.postgresql_server import PostgresqlServer
from tests.pool.test_embedded_processes import check, rest_of, start
from tests.support.patience import patient, until

pytestmark = pytest.mark.world

COMMIT = b"COMMIT\0"
"""The statement, not a level of isolation."""

SHORT_SECONDS = math.ceil(patient(0.25))
"""A limit that is to be reached, and within which everything else is done."""


@pytest.fixture
def proxy(server: PostgresqlServer) -> Iterator[PostgresqlProxy]:
    with PostgresqlProxy(server.folder / "proxy", server.folder) as made:
        yield made


@pytest.fixture
def far(
    proxy: PostgresqlProxy, postgresql: PoolSite, server: PostgresqlServer, postgresql_database: str
) -> Iterator[EmbeddedPool]:
    """The pool of `postgresql` by way of the proxy, connected."""
    with EmbeddedPool(server.url(postgresql_database, proxy.folder), HOST_UUID, "here") as pool:
        pool.this_host()
        yield pool


def test_a_server_that_is_killed_keeps_whole_transactions(
    postgresql: PoolSite, server: PostgresqlServer
) -> None:
    acknowledged: list[str] = []
    for number in range(3):
        writers = [
            start(
                "introduce",
                postgresql.place,
                postgresql.sr_ref,
                f"run-{number}-{me}",
                1_000_000,
                stderr=subprocess.STDOUT,
            )
            for me in range(4)
        ]
        for writer in writers:
            assert writer.stdout is not None
            acknowledged.append(writer.stdout.readline().strip())
        time.sleep(0.05 * number)
        server.kill()
        for writer in writers:
            said = rest_of(writer)
            acknowledged += [line for line in said.splitlines() if line.startswith("run-")]
            assert writer.returncode == 1
            assert "PoolUnreachable" in said or "PoolOutcomeUnknown" in said, said
        server.start()
        found = check(postgresql.place, acknowledged)
        # At most the one that each writer could not be told of.
        assert len(found) <= len(set(acknowledged)) + 4 * (number + 1)
        # Others go on at once, on a connection that was lost with the server.
        postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, f"after-{number}", "x")
    assert len(postgresql.pool.sr(postgresql.sr_ref).sm_config) == 3


def test_a_server_that_is_gone_is_unreachable(
    postgresql: PoolSite, server: PostgresqlServer
) -> None:
    server.stop()
    for _ in range(2):
        with pytest.raises(PoolUnreachable, match=str(server.folder)):
            postgresql.pool.srs()
        with pytest.raises(PoolUnreachable):
            postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, "a", "b")
    server.start()
    assert postgresql.pool.sr(postgresql.sr_ref).sm_config == {}


def test_a_connection_that_was_lost_while_idle_is_made_anew(
    far: EmbeddedPool, proxy: PostgresqlProxy, postgresql: PoolSite
) -> None:
    for number in range(3):
        proxy.end_connections()
        far.add_to_sr_sm_config(postgresql.sr_ref, str(number), "x")
    assert proxy.connections == 4
    assert set(postgresql.pool.sr(postgresql.sr_ref).sm_config) == {"0", "1", "2"}


@pytest.mark.parametrize("what", [Break.BEFORE, Break.AFTER])
def test_a_connection_lost_in_the_middle_leaves_nothing(
    far: EmbeddedPool, proxy: PostgresqlProxy, postgresql: PoolSite, what: Break
) -> None:
    proxy.arm(b"INSERT", what)
    with pytest.raises(PoolUnreachable) as raised:
        far.introduce_vdi(NewVdi("lost", postgresql.sr_ref, 1))
    assert not isinstance(raised.value, PoolOutcomeUnknown)
    assert proxy.seen == 1
    proxy.disarm()
    assert far.vdis(postgresql.sr_ref) == []
    far.introduce_vdi(NewVdi("lost", postgresql.sr_ref, 1))


@pytest.mark.parametrize("what", [Break.BEFORE, Break.AFTER])
def test_a_connection_lost_at_the_end_is_told_as_unknown(
    far: EmbeddedPool, proxy: PostgresqlProxy, postgresql: PoolSite, what: Break
) -> None:
    proxy.arm(COMMIT, what)
    with pytest.raises(PoolOutcomeUnknown, match="done or not"):
        far.add_to_sr_sm_config(postgresql.sr_ref, "claim", "mine")
    # It was not tried again.
    assert proxy.seen == 1
    proxy.disarm()
    done = what is Break.AFTER
    assert far.sr(postgresql.sr_ref).sm_config == ({"claim": "mine"} if done else {})
    if done:
        with pytest.raises(DuplicateKey):
            far.add_to_sr_sm_config(postgresql.sr_ref, "claim", "mine")


def test_a_connection_lost_at_the_end_of_reading_changes_nothing(
    far: EmbeddedPool, proxy: PostgresqlProxy
) -> None:
    proxy.arm(COMMIT, Break.BEFORE)
    with pytest.raises(PoolUnreachable) as raised:
        far.srs()
    assert type(raised.value) is PoolUnreachable
    proxy.disarm()
    assert len(far.srs()) == 1


def test_an_exception_in_a_transaction_leaves_the_connection_usable(
    far: EmbeddedPool, proxy: PostgresqlProxy, postgresql: PoolSite
) -> None:
    def interrupted() -> None:
        with far._database.writing() as transaction:
            transaction.execute("UPDATE sr SET name_label = 'half'")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert far.sr(postgresql.sr_ref).name_label == "disks"
    assert proxy.connections == 1


@pytest.mark.parametrize(
    ("word", "error"),
    [(b"INSERT", PoolUnreachable), (COMMIT, PoolOutcomeUnknown), (b"BEGIN", PoolUnreachable)],
)
def test_a_server_that_says_nothing_is_given_up(
    far: EmbeddedPool,
    proxy: PostgresqlProxy,
    postgresql: PoolSite,
    monkeypatch: pytest.MonkeyPatch,
    word: bytes,
    error: type[PoolUnreachable],
) -> None:
    monkeypatch.setattr(module, "STATEMENT_SECONDS", 0)
    monkeypatch.setattr(module, "GRACE_SECONDS", SHORT_SECONDS)
    proxy.arm(word, Break.SILENT)
    with pytest.raises(PoolUnreachable, match="does not answer") as raised:
        far.add_to_sr_sm_config(postgresql.sr_ref, "a", "b")
    assert type(raised.value) is error
    proxy.disarm()
    assert postgresql.pool.sr(postgresql.sr_ref).sm_config == {}


def test_a_connection_that_nobody_answers_is_given_up(
    proxy: PostgresqlProxy, server: PostgresqlServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "CONNECT_SECONDS", max(2, SHORT_SECONDS))
    proxy.arm(b"user", Break.SILENT)
    with (
        EmbeddedPool(server.url("postgres", proxy.folder), HOST_UUID, "here") as pool,
        pytest.raises(PoolUnreachable, match="timeout"),
    ):
        pool.srs()


def test_a_row_that_others_keep_is_waited_for_and_given_up(
    postgresql: PoolSite, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vdi = postgresql.pool.introduce_vdi(NewVdi("kept", postgresql.sr_ref, 1))
    postgresql.pool.close()
    monkeypatch.setattr(module, "STATEMENT_SECONDS", SHORT_SECONDS)
    with psycopg.connect(postgresql_url) as other:
        other.execute("UPDATE sm.vdi SET name_label = 'theirs'")
        # Reading does not wait.
        assert postgresql.pool.vdi(vdi).name_label == ""
        with pytest.raises(PoolBusy, match="statement timeout"):
            postgresql.pool.update_vdi(vdi, name_label="ours")
        other.rollback()
    assert postgresql.pool.vdi(vdi).name_label == ""
    postgresql.pool.update_vdi(vdi, name_label="ours")
    assert postgresql.pool.vdi(vdi).name_label == "ours"


def test_whoever_hangs_in_a_transaction_is_ended(
    postgresql: PoolSite, postgresql_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    vdi = postgresql.pool.introduce_vdi(NewVdi("kept", postgresql.sr_ref, 1))
    monkeypatch.setattr(module, "STATEMENT_SECONDS", SHORT_SECONDS)
    other = EmbeddedPool(postgresql_url, HOST_UUID, "here")

    def hang() -> None:
        with other._database.writing() as transaction:
            transaction.execute("UPDATE vdi SET name_label = ?", ("theirs",))
            # Waits for as long as the other transaction keeps the row.
            postgresql.pool.update_vdi(vdi, name_label="ours")
            transaction.execute("SELECT 1")

    with pytest.raises(PoolUnreachable, match="idle-in-transaction"):
        hang()
    other.close()
    assert postgresql.pool.vdi(vdi).name_label == "ours"


@pytest.mark.parametrize("cancel", [True, False])
def test_a_change_that_no_standby_confirms_is_told_as_unknown(
    postgresql: PoolSite,
    postgresql_url: str,
    server: PostgresqlServer,
    monkeypatch: pytest.MonkeyPatch,
    cancel: bool,
) -> None:
    server.restart(synchronous_standby_names="nobody")
    if cancel:
        canceller = threading.Thread(target=cancel_commit, args=(postgresql_url,))
        canceller.start()
    else:
        monkeypatch.setattr(module, "STATEMENT_SECONDS", SHORT_SECONDS)
        monkeypatch.setattr(module, "GRACE_SECONDS", SHORT_SECONDS)
    with pytest.raises(PoolOutcomeUnknown) as raised:
        postgresql.pool.add_to_sr_sm_config(postgresql.sr_ref, "a", "b")
    assert ("might not have been replicated" in str(raised.value)) == cancel
    if cancel:
        canceller.join()
    server.restart()
    assert postgresql.pool.sr(postgresql.sr_ref).sm_config == {"a": "b"}


def cancel_commit(url: str) -> None:
    """Cancel a commit that waits for a standby, as an administrator may."""
    query = "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with psycopg.connect(url, autocommit=True) as connection:
        until(lambda: connection.execute(query).fetchone(), "a commit that waits")
