"""One storage manager in a folder of its own, used as an administrator would."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

from sm import config
from sm.cli.main import main
from sm.cowutil.base import ImageRef
from sm.journal import Observer, no_observer
from sm.pool.base import Pool
from sm.pool.open import open_pool
from sm.repository import Repository
from tests.support.patience import patient

MIB = 1 << 20

PAUSE_SECONDS = patient(20)
"""For how long a leaf switch may hold users: a loaded machine must not change how a test ends."""


class Refused(Exception):
    """The command line refused; `error` is what it said."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(error["message"])
        self.error = error


class Site:
    """A root below `folder`, with the CLI in this process and everything else beside it.

    `options`: of its `sm.conf`, which stays as it is where it is there.
    """

    def __init__(self, folder: Path, **options: object) -> None:
        self.folder = folder
        self.root = folder / "root"
        self._options: dict[str, object] = {"pause_seconds": PAUSE_SECONDS, **options}
        self._pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self.surroundings: dict[str, str] = {}
        """Variables for all of its processes, such as those of `tests.support.outside`."""
        if not (self.root / "sm.conf").exists():
            self.configure()

    def configure(self, **options: object) -> None:
        """Write its `sm.conf`, with these options besides those that it was made with."""
        self.root.mkdir(parents=True, exist_ok=True)
        lines = [f"{key} = {value}" for key, value in {**self._options, **options}.items()]
        (self.root / "sm.conf").write_text("\n".join(["[sm]", *lines, ""]))

    @property
    def environment(self) -> dict[str, str]:
        """For processes that belong to this site."""
        return {**os.environ, **self.surroundings, "SM_ROOT": str(self.root)}

    def run(self, *arguments: str) -> tuple[int, str]:
        """Run `sm`; returns exit status and standard output."""
        output = io.StringIO()
        with mock.patch.dict(os.environ, self.environment), contextlib.redirect_stdout(output):
            code = main(arguments)
        return code, output.getvalue()

    def sm(self, *arguments: str) -> Any:
        """Run `sm --json`; returns the document, raises `Refused`."""
        code, text = self.run("--json", *arguments)
        document = json.loads(text)
        if code == 1:
            raise Refused(document["error"])
        return document

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """Run `sm --json` in a process of its own, beside this one."""
        return subprocess.Popen(
            [sys.executable, "-m", "sm.cli.main", "--json", *arguments],
            env=self.environment,
            stdout=subprocess.PIPE,
            text=True,
        )

    @staticmethod
    def result(started: subprocess.Popen[str]) -> Any:
        """The document of a command that was started; raises `Refused`."""
        text, _ = started.communicate(timeout=patient(120))
        document = json.loads(text)
        if started.returncode == 1:
            raise Refused(document["error"])
        return document

    def create_sr(self, name: str = "store") -> str:
        """A File SR in a new folder; returns its UUID."""
        location = self.folder / name
        created = self.sm("sr", "create", "--name", name, "--device-config", f"location={location}")
        return str(created["uuid"])

    def create_vdi(self, sr: str, image_format: str, size: int = 8 * MIB, name: str = "") -> str:
        """An empty VDI; returns its UUID."""
        given = ("--size", str(size), "--format", image_format, "--name", name)
        return str(self.sm("vdi", "create", "--sr", sr, *given)["uuid"])

    def snapshot(self, vdi: str) -> str:
        """A snapshot; returns its UUID."""
        return str(self.sm("vdi", "snapshot", vdi)["uuid"])

    def clone(self, vdi: str) -> str:
        """A clone; returns its UUID."""
        return str(self.sm("vdi", "clone", vdi)["uuid"])

    def delete(self, vdi: str) -> None:
        """Delete a VDI."""
        self.sm("vdi", "delete", vdi)

    def activate(self, vdi: str, *more: str) -> str:
        """Activate a VDI; returns its NBD URI."""
        return str(self.sm("vdi", "activate", vdi, *more)["nbd"])

    def deactivate(self, vdi: str) -> None:
        """Deactivate a VDI."""
        self.sm("vdi", "deactivate", vdi)

    def repository(self, sr: str, observer: Observer = no_observer) -> Repository:
        """The SR as the collector and the drivers see it."""
        with mock.patch.dict(os.environ, self.environment):
            settings = config.load()
        pool = open_pool(settings, None)
        self._pools.add(pool)
        repository = Repository.open(sr, settings, pool, observer)
        # A connection may outlive its pool for a while, and must not outlive the file.
        weakref.finalize(repository, pool.close)
        return repository

    def release(self) -> None:
        """Close what `repository` opened: before a fork, or before the database is replaced."""
        for pool in list(self._pools):
            pool.close()

    def chain(self, sr: str, vdi: str) -> list[ImageRef]:
        """The images of a VDI, uppermost first."""
        repository = self.repository(sr)
        return [repository.image(node) for node in repository.look("test").forest.chain(vdi)]

    def images(self, sr: str) -> set[str]:
        """The UUIDs of all images on the storage, hidden ones included."""
        return set(self.repository(sr).look("test").forest.nodes)

    def process(self, *arguments: str, **options: Any) -> subprocess.CompletedProcess[str]:
        """Run Python in a process of this site, without judging how it ends."""
        return subprocess.run(
            [sys.executable, *arguments],
            env=self.environment,
            capture_output=True,
            text=True,
            check=False,
            **options,
        )


NewSite = Callable[[str], Site]
"""Makes an empty storage manager, in a folder of that name."""
