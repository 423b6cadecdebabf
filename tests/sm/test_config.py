"""Settings: where the pool database is."""

from pathlib import Path

import pytest

from sm.config import Settings, load
from sm.errors import InvalidArgument

URL = "postgresql://sm:secret@db.example:5433/sm_pool?sslmode=verify-full&x=%2F"


def settings(root: Path, line: str) -> Settings:
    (root / "sm.conf").write_text(f"[sm]\npool = embedded\n{line}\n")
    return load(root, {})


def test_the_pool_database_is_a_file_in_the_root_by_default(tmp_path: Path) -> None:
    assert settings(tmp_path, "").pool_database == tmp_path / "pool.db"


@pytest.mark.parametrize("url", [URL, "postgres://db/pool", "postgresql:///pool?host=a,b"])
def test_a_url_is_kept_as_it_is(tmp_path: Path, url: str) -> None:
    found = settings(tmp_path, f"pool_database = {url}")
    assert found.pool_database == url
    assert "secret" not in repr(found)


def test_another_path_is_a_path(tmp_path: Path) -> None:
    found = settings(tmp_path, "pool_database = /srv/pool:1/postgresql.db").pool_database
    assert found == Path("/srv/pool:1/postgresql.db")


def test_a_url_of_another_database_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument, match="mysql") as raised:
        settings(tmp_path, "pool_database = mysql://sm:secret@db/pool")
    assert "secret" not in str(raised.value)


def test_a_pause_is_a_time(tmp_path: Path) -> None:
    assert settings(tmp_path, "").pause_seconds == 2.0
    assert settings(tmp_path, "pause_seconds = 0.5").pause_seconds == 0.5
    for wrong in ("0", "-1", "inf", "nan", "soon"):
        with pytest.raises(InvalidArgument, match="pause_seconds is a number above 0, not"):
            settings(tmp_path, f"pause_seconds = {wrong}")


@pytest.mark.parametrize(
    ("name", "least"),
    [("lock_seconds", 0), ("gc_quiet_seconds", 0), ("gc_parallel", 1), ("gc_hang_seconds", 1)],
)
def test_a_number_has_a_least_value_and_no_other_words(
    tmp_path: Path, name: str, least: int
) -> None:
    assert getattr(settings(tmp_path, f"{name} = {least}"), name) == least
    for wrong in (str(least - 0.5), "inf", "nan", "many"):
        with pytest.raises(InvalidArgument, match=f"{name} is a number from {least} on, not"):
            settings(tmp_path, f"{name} = {wrong}")
