"""Having the collector that runs work now, and following what it does until it is at rest."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from sm.cowutil.base import Progress
from sm.errors import SmError
from sm.gc.service.ear import AT_REST, request
from sm.gc.state.ledger import FinishedJob, Ledger
from sm.gc.state.status import State, Status
from sm.kick import send, short_address, socket_path
from sm.repository import Repository

log = logging.getLogger(__name__)

LOOK_SECONDS = 0.2
"""How often what is under way is looked at."""

SEEN_JOBS = 200
"""More jobs than end between two looks."""


def work_now(
    repository: Repository, progress: Progress, finished: Callable[[FinishedJob], None]
) -> Status | None:
    """Ask the collector of an SR to do now all that can be done, and wait until it has.

    It lets nothing wait for a quiet time, for hours or after a failure meanwhile. `finished` is
    told of each job that ends. Returns its last status; None when none runs, or it has ended.
    """
    run, sr = repository.settings.run, repository.uuid
    ledger = Ledger(repository.settings.ledger)

    def ended() -> list[FinishedJob]:
        try:
            return ledger.history(sr, SEEN_JOBS)
        except SmError as error:
            log.warning("what the collector does cannot be told: %s", error)
            return []

    seen = {job.id for job in ended()}

    def tell() -> None:
        for job in reversed(ended()):
            if job.id not in seen:
                seen.add(job.id)
                finished(job)

    with _ear(run, sr) as (name, answers):
        if not send(socket_path(run, sr), request(name)):
            return None
        while True:
            with contextlib.suppress(TimeoutError):
                heard = answers.recv(64)
                tell()
                return Status.read(run, sr) if heard == AT_REST else None
            tell()
            status = Status.read(run, sr)
            if status is None or status.state is State.STOPPED:
                return None
            done = sum(job.bytes_done for job in status.jobs)
            progress(done, sum(job.bytes_total for job in status.jobs))


@contextlib.contextmanager
def _ear(run: Path, sr: str) -> Iterator[tuple[str, socket.socket]]:
    """A socket beside that of the collector, for its answer; its name and itself."""
    path = socket_path(run, sr).with_name(f"{sr}.{os.getpid()}-{uuid.uuid4().hex[:8]}.ask")
    path.parent.mkdir(parents=True, exist_ok=True)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as answers:
        with short_address(path) as address:
            answers.bind(address)
        answers.settimeout(LOOK_SECONDS)
        try:
            yield path.name, answers
        finally:
            path.unlink(missing_ok=True)
