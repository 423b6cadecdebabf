"""Watching one disk: a thread that sees its level and holds its users, and one that asks for room.

The first never waits for anybody but the process of the disk. Nothing is kept that would be missed
after a kill: what is held is asked of that process, what people were told is in the record.
"""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Protocol

from sm.cowutil.errors import ImageError
from sm.datapath.base import Disk, Gauge, GrowingDatapath, Level
from sm.errors import SmError, SrNoSpace, VdiMissing
from sm.thin.giver import Waits
from sm.thin.marks import Asking, Marks, Trouble, plan, refused

log = logging.getLogger(__name__)

SOON_SECONDS = 0.05
"""Between two looks while an answer is expected, or no leaf is open."""

AGAIN_SECONDS = 0.2
"""Before the next try, when a disk could not be looked at."""

FIRST_SECONDS = 0.1
"""For the pool to say how large a disk is; until it does, the disk is taken for an endless one."""

LOOK_SECONDS = 2.0
"""Between two looks at a disk about which nothing is heard."""


class Gives(Protocol):
    """What `sm.thin.giver.Giver` does."""

    def full_size(self) -> int:
        """See there."""

    def give(self, wanted: int, level: Level) -> None:
        """See there."""

    def tell(self, waits: Waits | None) -> None:
        """See there."""


class Watch:
    """Watches `disk` until its process ends, or `stop`. `taken_up` is called when it does."""

    def __init__(
        self,
        disk: Disk,
        datapath: GrowingDatapath,
        giver: Gives,
        marks: Marks,
        taken_up: Callable[[], None],
    ) -> None:
        self._disk = disk
        self._datapath = datapath
        self._giver = giver
        self._marks = marks
        self._taken_up = taken_up
        self._stopping = threading.Event()
        self._asking = Asking()
        self._request: Future[None] | None = None
        self._full: Future[int] | None = None
        self._problem = ""
        self._telling: Future[None] | None = None
        self._told: Waits | str | None = "unknown"
        self._missing = 0
        self._thread = threading.Thread(target=self._run, name=f"thin {disk.vdi}", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """Have it end, with everything as it is."""
        self._stopping.set()

    @property
    def ended(self) -> bool:
        """Whether it has."""
        return not self._thread.is_alive()

    def _run(self) -> None:
        with ThreadPoolExecutor(1, f"thin room {self._disk.vdi}") as others:
            while not self._stopping.is_set():
                try:
                    with self._datapath.gauge(self._disk) as gauge:
                        self._taken_up()
                        self._follow(gauge, others)
                except VdiMissing:
                    break
                except (SmError, ImageError, OSError) as error:
                    if self._datapath.find(self._disk) is None:
                        break
                    if str(error) != self._problem:
                        log.warning("%s cannot be watched: %s", self._disk.vdi, error)
                    self._problem = str(error)
                    self._stopping.wait(AGAIN_SECONDS)
            if not self._stopping.is_set():
                # Only now: a request that was under way may have told something.
                self._tell(None, others)

    def _follow(self, gauge: Gauge, others: ThreadPoolExecutor) -> None:
        while not self._stopping.is_set():
            self._heard()
            level = gauge.level()
            if level is None:
                self._stopping.wait(SOON_SECONDS)
                continue
            full = self._full_size(others)
            wanted = plan(level, full, self._marks, self._asking, time.monotonic())
            if wanted.hold and gauge.holds:
                gauge.hold()
                log.info("the users of %s are held: %s", self._disk.vdi, level)
            if wanted.release and gauge.holds:
                gauge.release()
                log.info("the users of %s go on: %s", self._disk.vdi, level)
            if wanted.ask:
                self._ask(wanted.ask, level, others)
            self._say(level, others)
            expected = self._request is not None or self._asking.trouble is not Trouble.NONE
            gauge.wait(wanted.wake, SOON_SECONDS if expected else LOOK_SECONDS)

    def _full_size(self, others: ThreadPoolExecutor) -> int:
        """What the volume needs for the whole disk; without end as long as that is not known."""
        if self._full is None:
            self._full = others.submit(self._giver.full_size)
            wait([self._full], FIRST_SECONDS)
        if not self._full.done():
            return sys.maxsize
        error = self._full.exception()
        if error is None:
            return self._full.result()
        if not isinstance(error, SmError | ImageError | OSError):
            raise error
        self._full = None
        log.warning("the size of %s is not known yet: %s", self._disk.vdi, error)
        return sys.maxsize

    def _ask(self, wanted: int, level: Level, others: ThreadPoolExecutor) -> None:
        self._missing = wanted - level.size
        self._asking = Asking(under_way=True, trouble=self._asking.trouble)
        self._request = others.submit(self._giver.give, wanted, level)

    def _heard(self) -> None:
        """Take in the answer to a request, if it is there."""
        request = self._request
        if request is None or not request.done():
            return
        self._request = None
        error = request.exception()
        if error is None:
            self._asking = Asking()
            return
        if not isinstance(error, SmError | ImageError | OSError):
            raise error
        trouble = Trouble.NO_SPACE if isinstance(error, SrNoSpace) else Trouble.NO_ANSWER
        if trouble is not self._asking.trouble:
            log.warning("the volume of %s does not grow: %s", self._disk.vdi, error)
        self._asking = refused(self._asking, trouble, time.monotonic())

    def _say(self, level: Level, others: ThreadPoolExecutor) -> None:
        """Tell whether users wait, when that is another thing than was told last."""
        trouble = self._asking.trouble
        waits = (
            Waits(trouble, self._missing) if level.held and trouble is not Trouble.NONE else None
        )
        if level.held and waits is None and self._told not in (None, "unknown"):
            return  # an answer is about to come
        if waits == self._told or (self._telling is not None and not self._telling.done()):
            return
        if self._telling is not None and self._telling.exception() is not None:
            log.warning("%s: %s", self._disk.vdi, self._telling.exception())
        if waits is not None:
            log.error(
                "the users of %s wait (%s), %d bytes are missing: delete what the SR can spare, or"
                " give it another device",
                *(self._disk.vdi, trouble.value, waits.missing),
            )
        self._told = waits
        self._tell(waits, others)

    def _tell(self, waits: Waits | None, others: ThreadPoolExecutor) -> None:
        self._telling = others.submit(self._giver.tell, waits)
