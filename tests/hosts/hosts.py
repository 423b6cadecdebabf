"""Several hosts on one machine: each a root of its own, one pool database, real `sm-hostd`s."""

from __future__ import annotations

import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.patience import patient, until
from tests.support.plugin import EXECUTABLES
from tests.support.site import Site


class Host(Site):
    """One host of a pool whose database is `database`; `options` are further lines of sm.conf."""

    def __init__(self, folder: Path, name: str, database: Path | str, **options: str) -> None:
        self.name = name
        self.uuid = str(uuid.uuid4())
        self.service: subprocess.Popen[str] | None = None
        settings = {
            "pool": "embedded",
            "pool_database": str(database),
            "host_uuid": self.uuid,
            "host_name": name,
            "lock_seconds": f"{patient(20):g}",
        }
        super().__init__(folder / name, **{**settings, **options})

    @property
    def ref(self) -> str:
        """Its reference in the pool."""
        with self.pool() as pool:
            return pool.this_host().ref

    @contextmanager
    def pool(self) -> Iterator[Any]:
        """The pool as this host sees it."""
        from sm import config
        from sm.pool.open import open_pool

        with open_pool(config.load(self.root), None) as pool:
            yield pool

    def start(self) -> None:
        """Start its `sm-hostd`, and wait until it answers."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Wait until its `sm-hostd` answers."""
        until(self.answers, f"the start of sm-hostd on {self.name}")

    def start_unheard(self) -> None:
        """Start its `sm-hostd`, and wait until it has said where it listens."""
        self.launch()

        def registered() -> bool:
            with self.pool() as pool:
                return bool(pool.this_host().address)

        until(registered, f"the start of sm-hostd on {self.name}")

    def launch(self) -> None:
        """Start its `sm-hostd`."""
        assert self.service is None
        self.service = subprocess.Popen(
            [str(EXECUTABLES / "sm-hostd"), "--root", str(self.root)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def answers(self) -> bool:
        """Whether it answers when it is called."""
        if self.service is not None and self.service.poll() is not None:
            raise AssertionError(f"sm-hostd ended: {self.service.communicate()[1]}")
        (row,) = [row for row in self.sm("host", "list") if row["uuid"] == self.uuid]
        return bool(row["answers"])

    def kill(self) -> None:
        """Kill its `sm-hostd`, as a crash does."""
        assert self.service is not None
        self.service.kill()
        self.service.communicate()
        self.service = None

    def stop(self) -> tuple[int, str, str]:
        """Tell its `sm-hostd` to end; returns exit status, standard output and error."""
        assert self.service is not None
        self.service.terminate()
        out, err = self.service.communicate(timeout=patient(60))
        code, self.service = self.service.returncode, None
        return code, out, err

    def collect(self, sr: str) -> dict[str, Any]:
        """Run the collector of this host."""
        found: dict[str, Any] = self.sm("gc", "run", "--sr", sr)
        return found

    def start_collector(self, sr: str) -> subprocess.Popen[str]:
        """Run the collector in a process of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "sm.gc.daemon", "--root", str(self.root), "--sr", sr, "--once"],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )


class Pool:
    """Three hosts that share an SR; the first is its master. All services run."""

    def __init__(self, folder: Path) -> None:
        database = folder / "shared" / "pool.db"
        self.location = folder / "shared" / "images"
        self.hosts = [Host(folder, name, database) for name in ("alpha", "beta", "gamma")]
        for host in self.hosts:
            host.launch()
        for host in self.hosts:
            host.wait()
        self.master, self.second, self.third = self.hosts
        self.sr = str(
            self.master.sm(
                *("sr", "create", "--name", "shared", "--shared"),
                *("--device-config", f"location={self.location}"),
            )["uuid"]
        )
        for host in (self.second, self.third):
            host.sm("sr", "attach", self.sr)

    def close(self) -> None:
        """End all services."""
        for host in self.hosts:
            if host.service is not None:
                host.kill()
