"""A real PostgreSQL server from Debian's package, with a data folder and socket of its own."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

import psycopg

from tests.support.patience import patient, until

USER = "postgres"
PREFIX = "sm-postgresql-"
ROOM = 4 << 30
"""More than the databases of a whole run take, in bytes."""

START_SECONDS = patient(60)
STOP_SECONDS = patient(30)


class PostgresqlServer:
    """The server runs from `start` to `stop`, and no longer than the process that started it.

    Its folder is not below pytest's, which the server's user may not enter: the server refuses to
    run as root. It is in memory where there is room, because what the tests kill is processes: what
    those have written stays, and syncing a new database for every test takes longer than the tests.
    """

    def __init__(self) -> None:
        _remove_leftovers()
        self.folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-", dir=_place()))
        self.data = self.folder / "data"
        self._process: subprocess.Popen[bytes] | None = None
        self.options: dict[str, str] = {}
        self._databases = 0
        if os.geteuid() == 0:
            owner = pwd.getpwnam(USER)
            os.chown(self.folder, owner.pw_uid, owner.pw_gid)
        argv = [_program("initdb"), "-D", self.data, "-U", USER, "-A", "trust", "-E", "UTF8"]
        argv += ["--locale=C.UTF-8", "--no-sync"]
        subprocess.run(_as_user(argv), check=True, stdout=subprocess.DEVNULL, cwd=self.folder)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        # Not in order: that would first write out what is removed next.
        self.stop(signal.SIGQUIT)
        shutil.rmtree(self.folder)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self, **options: str) -> None:
        """Start the server with its own options for this time, and wait until it answers."""
        self.options = options
        argv: list[str | Path] = [_program("postgres"), "-D", self.data, "-k", self.folder]
        for name, value in {"listen_addresses": "", "max_connections": "50", **options}.items():
            argv += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(_as_user(argv), stderr=log, cwd=self.folder)
        until(self._answers, "the start of PostgreSQL")

    def _answers(self) -> bool:
        try:
            psycopg.connect(self.url("postgres")).close()
        except psycopg.OperationalError:
            if not self.running:
                raise AssertionError((self.folder / "log").read_text()) from None
            return False
        return True

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """End the server in order, whoever is connected."""
        if self._process is not None and self.running:
            self._process.send_signal(how)
            self._process.wait(STOP_SECONDS)
        self._process = None

    def restart(self, **options: str) -> None:
        self.stop()
        self.start(**options)

    def kill(self) -> None:
        """End all processes of the server at once, by SIGKILL."""
        assert self._process is not None
        server = self._process.pid
        # First none may be made any more.
        os.kill(server, signal.SIGSTOP)
        children = Path(f"/proc/{server}/task/{server}/children").read_text().split()
        for pid in (server, *map(int, children)):
            os.kill(pid, signal.SIGKILL)
        self._process.wait(STOP_SECONDS)
        until(lambda: not any(_lives(int(pid)) for pid in children), "their end by SIGKILL")
        self._process = None

    def url(self, database: str, folder: Path | None = None) -> str:
        """The URL of a database; by way of the socket in another folder, if one is given."""
        place = quote(str(folder or self.folder), safe="")
        return f"postgresql://{USER}@{place}/{database}"

    def create_database(self, options: str = "") -> str:
        """Make an empty database; returns its name."""
        self._databases += 1
        name = f"pool{self._databases}"
        self.execute("postgres", f"CREATE DATABASE {name} {options}")
        return name

    def execute(self, database: str, statement: str) -> None:
        with psycopg.connect(self.url(database), autocommit=True) as connection:
            connection.execute(statement.encode())


def _place() -> Path:
    """Where the folder of the server goes."""
    memory = Path("/dev/shm")
    if os.access(memory, os.W_OK) and shutil.disk_usage(memory).free > ROOM:
        return memory
    return Path(tempfile.gettempdir())


def _program(name: str) -> Path:
    """The program of the newest version that is installed."""
    found = Path("/usr/lib/postgresql").glob(f"*/bin/{name}")
    return max(found, key=lambda path: int(path.parts[-3]))


def _as_user(argv: list[str | Path]) -> list[str]:
    """`argv` as the server's user, to be ended when we end, however that happens."""
    words = ["setpriv", "--pdeathsig", "QUIT"]
    if os.geteuid() == 0:
        words += ["--reuid", USER, "--regid", USER, "--init-groups"]
    return [*words, "--", *map(str, argv)]


def _lives(pid: int) -> bool:
    """Whether there is a process that is not only waiting to be collected."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def _remove_leftovers() -> None:
    """Remove the folders of earlier runs that were killed."""
    for folder in _place().glob(f"{PREFIX}*"):
        pid = int(folder.name.removeprefix(PREFIX).partition("-")[0])
        if not _lives(pid):
            shutil.rmtree(folder, ignore_errors=True)
