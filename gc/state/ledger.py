"""What the collector remembers between its runs.

Finished jobs, failures with the time of the next attempt, and since when work has been waiting, in
an SQLite file of the host, for all its SRs. Losing it loses history and patience, never data.
Times in seconds since 1970, durations in seconds, sizes in bytes.
"""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Collection, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sm.errors import SmError

log = logging.getLogger(__name__)

KEPT_JOBS = 10_000
"""So many finished jobs of each SR are remembered."""

SPEED_JOBS = 10
"""The speed of an SR is that of its last so many jobs that copied."""

FIRST_DELAY = 60.0
LONGEST_DELAY = 6 * 3600.0
"""The wait after a failure doubles from one to the other."""

SCHEMA = """
CREATE TABLE IF NOT EXISTS job (
    id TEXT PRIMARY KEY, sr TEXT NOT NULL, action TEXT NOT NULL, images TEXT NOT NULL,
    target TEXT, leaf TEXT, through TEXT, began REAL NOT NULL, seconds REAL NOT NULL,
    bytes_copied INTEGER NOT NULL, bytes_freed INTEGER NOT NULL, pause_seconds REAL NOT NULL,
    result TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL
) STRICT;
CREATE INDEX IF NOT EXISTS job_of_sr ON job (sr, began);
CREATE TABLE IF NOT EXISTS total (
    sr TEXT NOT NULL, action TEXT NOT NULL, result TEXT NOT NULL, code TEXT NOT NULL,
    jobs INTEGER NOT NULL, seconds REAL NOT NULL, bytes_copied INTEGER NOT NULL,
    bytes_freed INTEGER NOT NULL, pause_seconds REAL NOT NULL,
    PRIMARY KEY (sr, action, result, code)
) STRICT;
CREATE TABLE IF NOT EXISTS failure (
    sr TEXT NOT NULL, subject TEXT NOT NULL, code TEXT NOT NULL, reason TEXT NOT NULL,
    count INTEGER NOT NULL, next_attempt REAL NOT NULL, PRIMARY KEY (sr, subject)
) STRICT;
CREATE TABLE IF NOT EXISTS waiting (
    sr TEXT NOT NULL, subject TEXT NOT NULL, since REAL NOT NULL, PRIMARY KEY (sr, subject)
) STRICT;
"""


class Result(StrEnum):
    """How a job ended. After anything but `DONE` the disks read as before, too."""

    DONE = "done"
    FAILED = "failed"
    GAVE_WAY = "gave-way"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """One job as it ended. `code` and `reason` say why it did not reach its goal.

    `pause_seconds`: how long a guest's requests were held.
    """

    id: str
    sr: str
    action: str
    images: tuple[str, ...]
    began: float
    seconds: float
    result: Result
    into: str | None = None
    leaf: str | None = None
    through: str | None = None
    bytes_copied: int = 0
    bytes_freed: int = 0
    pause_seconds: float = 0.0
    code: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Total:
    """All jobs of an SR that ended alike, those included that are not remembered one by one."""

    action: str
    result: Result
    code: str
    jobs: int
    seconds: float
    bytes_copied: int
    bytes_freed: int
    pause_seconds: float


@dataclass(frozen=True, slots=True)
class Failure:
    """Work on `subject` (an image UUID) that failed `count` times in a row."""

    subject: str
    code: str
    reason: str
    count: int
    next_attempt: float


@contextmanager
def doing_without() -> Iterator[None]:
    """Go on when the ledger cannot be used: a full disk is when a collector is needed most."""
    try:
        yield
    except SmError as error:
        log.warning("history and patience are lost: %s", error)


class Ledger:
    """The memory of the collectors of one host, in the file `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    @property
    def path(self) -> Path:
        """The file; SQLite has more beside it."""
        return self._path

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        """A transaction; raises `SmError` when the file cannot be used."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with closing(sqlite3.connect(self._path, timeout=30.0)) as database:
                database.execute("PRAGMA journal_mode = WAL")
                database.executescript(SCHEMA)
                with database:
                    yield database
        except (sqlite3.Error, OSError) as error:
            raise SmError(f"{self._path}, which may be removed: {error}") from error

    # Jobs

    def finished(self, job: FinishedJob) -> None:
        """Remember a job that has ended, and forget the oldest beyond the limit."""
        with self._open() as database:
            _add_to_total(database, job)
            database.execute(
                "INSERT OR REPLACE INTO job VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(job.id, job.sr, job.action, json.dumps(job.images)),
                    *(job.into, job.leaf, job.through, job.began, job.seconds),
                    *(job.bytes_copied, job.bytes_freed, job.pause_seconds),
                    *(job.result.value, job.code, job.reason),
                ),
            )
            database.execute(
                "DELETE FROM job WHERE sr = ? AND id NOT IN"
                " (SELECT id FROM job WHERE sr = ? ORDER BY began DESC LIMIT ?)",
                (job.sr, job.sr, KEPT_JOBS),
            )

    def totals(self, sr: str) -> list[Total]:
        """What all jobs of an SR come to; never less than before, but when the file is lost."""
        query = (
            "SELECT action, result, code, jobs, seconds, bytes_copied, bytes_freed, pause_seconds"
            " FROM total WHERE sr = ? ORDER BY action, result, code"
        )
        with self._open() as database:
            return [
                Total(action, Result(result), *rest)
                for action, result, *rest in database.execute(query, (sr,))
            ]

    def history(self, sr: str | None = None, limit: int = 50) -> list[FinishedJob]:
        """The last jobs, newest first; of all SRs where none is named."""
        query = (
            "SELECT id, sr, action, images, target, leaf, through, began, seconds, bytes_copied,"
            " bytes_freed, pause_seconds, result, code, reason FROM job"
            " WHERE ? IS NULL OR sr = ? ORDER BY began DESC LIMIT ?"
        )
        with self._open() as database:
            return [_job(row) for row in database.execute(query, (sr, sr, limit))]

    def speed(self, sr: str) -> float | None:
        """Bytes copied per second in the last jobs of an SR; None where none has copied."""
        query = (
            "SELECT sum(bytes_copied), sum(seconds) FROM (SELECT bytes_copied, seconds FROM job"
            " WHERE sr = ? AND result = 'done' AND bytes_copied > 0 ORDER BY began DESC LIMIT ?)"
        )
        with self._open() as database:
            copied, seconds = database.execute(query, (sr, SPEED_JOBS)).fetchone()
        return copied / seconds if copied and seconds else None

    # Failures

    def failed(self, sr: str, subject: str, code: str, reason: str, now: float) -> Failure:
        """Note one more failure; each in a row doubles the wait for the next attempt."""
        with self._open() as database:
            row = database.execute(
                "SELECT count FROM failure WHERE sr = ? AND subject = ?", (sr, subject)
            ).fetchone()
            count = 1 + (row[0] if row else 0)
            failure = Failure(subject, code, reason, count, now + delay_after(count))
            database.execute(
                "INSERT OR REPLACE INTO failure VALUES (?, ?, ?, ?, ?, ?)",
                (sr, subject, code, reason, count, failure.next_attempt),
            )
        return failure

    def succeeded(self, sr: str, subject: str) -> None:
        """Forget the failures of work on a subject."""
        with self._open() as database:
            database.execute("DELETE FROM failure WHERE sr = ? AND subject = ?", (sr, subject))

    def retry(self, sr: str) -> None:
        """Let everything be tried again at once: an administrator asks for it."""
        with self._open() as database:
            database.execute("DELETE FROM failure WHERE sr = ?", (sr,))

    def failures(self, sr: str) -> dict[str, Failure]:
        """The failures of an SR by subject."""
        query = "SELECT subject, code, reason, count, next_attempt FROM failure WHERE sr = ?"
        with self._open() as database:
            return {row[0]: Failure(*row) for row in database.execute(query, (sr,))}

    def bound(self, sr: str, now: float) -> None:
        """Have no attempt wait for longer than it could: `now` may be less than it was said to be.

        What was noted with a clock that was ahead would else wait until that time comes.
        """
        with self._open() as database:
            rows = database.execute(
                "SELECT subject, count FROM failure WHERE sr = ? AND next_attempt > ?", (sr, now)
            ).fetchall()
            for subject, count in rows:
                database.execute(
                    "UPDATE failure SET next_attempt = min(next_attempt, ?)"
                    " WHERE sr = ? AND subject = ?",
                    (now + delay_after(count), sr, subject),
                )

    # Patience

    def waiting_since(self, sr: str, subjects: Collection[str], now: float) -> dict[str, float]:
        """Since when each subject has been planned; those not named any more are forgotten."""
        with self._open() as database:
            known = dict(database.execute("SELECT subject, since FROM waiting WHERE sr = ?", (sr,)))
            since = {subject: min(now, known.get(subject, now)) for subject in subjects}
            if since != known:
                database.execute("DELETE FROM waiting WHERE sr = ?", (sr,))
                database.executemany(
                    "INSERT INTO waiting VALUES (?, ?, ?)",
                    [(sr, subject, time) for subject, time in since.items()],
                )
        return since


def delay_after(count: int) -> float:
    """Seconds from the last of `count` failures in a row to the next attempt."""
    return min(LONGEST_DELAY, FIRST_DELAY * 2.0 ** min(count - 1, 20))


def _add_to_total(database: sqlite3.Connection, job: FinishedJob) -> None:
    """Count a job, unless it is known already."""
    if database.execute("SELECT 1 FROM job WHERE id = ?", (job.id,)).fetchone():
        return
    database.execute(
        "INSERT INTO total VALUES (?, ?, ?, ?, 1, ?, ?, ?, ?)"
        " ON CONFLICT (sr, action, result, code) DO UPDATE SET jobs = jobs + 1,"
        " seconds = seconds + excluded.seconds,"
        " bytes_copied = bytes_copied + excluded.bytes_copied,"
        " bytes_freed = bytes_freed + excluded.bytes_freed,"
        " pause_seconds = pause_seconds + excluded.pause_seconds",
        (
            *(job.sr, job.action, job.result.value, job.code, job.seconds),
            *(job.bytes_copied, job.bytes_freed, job.pause_seconds),
        ),
    )


def _job(row: tuple[str, ...]) -> FinishedJob:
    (id_, sr, action, images, into, leaf, through, began, seconds, *numbers) = row
    copied, freed, paused, result, code, reason = numbers
    return FinishedJob(
        id=id_,
        sr=sr,
        action=action,
        images=tuple(json.loads(images)),
        began=float(began),
        seconds=float(seconds),
        result=Result(result),
        into=into,
        leaf=leaf,
        through=through,
        bytes_copied=int(copied),
        bytes_freed=int(freed),
        pause_seconds=float(paused),
        code=code,
        reason=reason,
    )
