"""Whole commands of two hosts, each with its own root, that share a PostgreSQL database."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.pool.test_embedded_processes import HERE
from tests.support.patience import patient

pytestmark = pytest.mark.world


def sm(root: Path, *words: str) -> Any:
    argv = [sys.executable, "-m", "sm.cli.main", "--json", "--root", str(root), *words]
    ended = subprocess.run(
        argv, check=False, capture_output=True, text=True, cwd=HERE, timeout=patient(60)
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return json.loads(ended.stdout)


def test_two_hosts_share_what_is_recorded(postgresql_url: str, tmp_path: Path) -> None:
    roots = [tmp_path / name for name in ("alpha", "beta")]
    for root in roots:
        root.mkdir()
        (root / "sm.conf").write_text(
            f"[sm]\npool = embedded\npool_database = {postgresql_url}\nhost_name = {root.name}\n"
        )
    location = f"location={tmp_path / 'images'}"
    sm(roots[0], "sr", "create", "--name", "images", "--device-config", location)
    sm(roots[0], "vdi", "create", "--sr", "images", "--size", "1GiB", "--name", "web")
    sm(roots[0], "vdi", "snapshot", "web", "--name", "before")
    [here, there] = [sm(root, "vdi", "list") for root in roots]
    assert here == there
    assert {"web", "before"} == {disk["name"] for disk in here}
    [here, there] = [sm(root, "sr", "list") for root in roots]
    assert [sr["uuid"] for sr in here] == [sr["uuid"] for sr in there]
    assert not list(tmp_path.glob("*/pool.db"))
