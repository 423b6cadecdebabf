"""The commit of a VBD from its beginning to the word that its end was taken note of."""

from __future__ import annotations

import errno
from collections.abc import Callable
from dataclasses import replace

from sm import durable
from sm.cowutil.base import ImageRef
from sm.cowutil.errors import ImageError
from sm.cowutil.registry import Formats
from sm.datapath.base import DatapathFailed, Job, JobState, OutcomeUnknown, TapdiskFailed
from sm.datapath.tapdisk.commit import Commit, check_sizes, find_place, is_over, judge
from sm.datapath.tapdisk.control import Refused
from sm.datapath.tapdisk.life import Life, Patience, Vbd
from sm.datapath.tapdisk.links import argument, check_chain, link_of
from sm.datapath.tapdisk.wire import Progress
from sm.errors import Busy, Unimplemented, VdiMissing


class Jobs:
    """Commits of all VBDs; what is known of each is in its note.

    `clock` gives seconds that go on over a restart of ours (monotonic clock of the system).
    `into_parent` as for `find_place`.
    """

    def __init__(
        self,
        life: Life,
        formats: Formats,
        patience: Patience,
        clock: Callable[[], float],
        *,
        into_parent: bool,
    ) -> None:
        self._life = life
        self._formats = formats
        self._patience = patience
        self._clock = clock
        self._into_parent = into_parent

    def start(self, vbd: Vbd, top: ImageRef, base: ImageRef) -> None:
        """Begin; noted first, so that whoever comes after a crash of ours finds it.

        The chain that the VBD has open is the one that its leaf names: looked at now.
        """
        note, chain = vbd.note, vbd.note.chain
        if vbd.commit is not None:
            raise Busy(f"{note.disk.vdi} has a commit that is {vbd.commit.state}")
        place = find_place(chain, top, base, into_parent=self._into_parent)
        if note.read_only or not vbd.running:
            raise TapdiskFailed(f"{note.disk.vdi} is read-only, or paused")
        check_chain(self._formats, chain)
        check_sizes(self._formats, top, base)
        argument(top)
        noted = Commit(chain[place - 1], top, base, self._clock(), self._patience.poll)
        note = self._life.save(note, commit=noted)
        try:
            vbd.control.commit(vbd.minor, str(top.path))
        except Refused as error:
            self._life.save(note, commit=None)
            raise self._not_begun(vbd, error) from error

    def is_due(self, noted: Commit) -> bool:
        """Whether tapdisk may be asked again; until then, what was last seen must do."""
        return not noted.ended and self._clock() >= noted.asked + noted.interval

    def look(self, vbd: Vbd, noted: Commit) -> Job:
        """Ask how it stands, and note it; only when that is due."""
        try:
            job = self._ask(vbd, noted)
        except OutcomeUnknown as error:
            job = Job(JobState.UNKNOWN, noted.done, noted.total, self.unanswered(vbd, error))
        except (DatapathFailed, OSError) as error:
            job = Job(JobState.UNKNOWN, noted.done, noted.total, str(error))
        seen = noted.seen(job, self._clock(), self._patience.slowest_poll)
        self._life.save(vbd.note, commit=seen)
        return job

    def finish(self, vbd: Vbd, noted: Commit) -> None:
        """Forget a commit that ended; after a good one, the merged image is not in the chain."""
        if not noted.ended:
            raise Busy(f"the commit of {vbd.note.disk.vdi} is {noted.state}")
        chain, relinked = vbd.note.chain, vbd.relinked
        if noted.state is JobState.DONE:
            chain = tuple(image for image in chain if image != noted.top)
            relinked.append(noted.overlay)
        self._life.save(vbd.note, chain=chain, commit=None, relinked=relinked)

    def cancel(self, vbd: Vbd, noted: Commit) -> None:
        """Ask it to stop; `look` tells when it has, or that it was too late."""
        if noted.ended:
            return
        asked = replace(noted, cancelled=True, interval=self._patience.poll)
        note = self._life.save(vbd.note, commit=asked)
        try:
            vbd.control.cancel(vbd.minor)
        except Refused as error:
            # ECANCELED is how some builds say that it worked. ENODEV: paused, which ended it.
            if error.number in (errno.ECANCELED, errno.ENODEV):
                return
            self._life.save(note, commit=noted)
            if error.number == errno.EBUSY:
                raise Busy("the commit is about to end by itself; look at it again") from error
            raise

    @staticmethod
    def unanswered(vbd: Vbd, error: OutcomeUnknown) -> str:
        """What an unanswered question means for the tapdisk."""
        try:
            vbd.control.pid()
        except OutcomeUnknown:
            return (
                f"tapdisk {vbd.note.pid} answers nothing any more, so its users are stuck too; it"
                f" must be ended by hand ({error.detail})"
            )
        return error.detail

    def _ask(self, vbd: Vbd, noted: Commit) -> Job:
        progress: Progress | None = None
        try:
            progress = vbd.control.query(vbd.minor)
        except Refused as error:
            # ENOENT is how one build says that there is no job; ENODEV: paused, which ended it.
            if error.number not in (errno.ENOENT, errno.ENODEV):
                raise
        if not is_over(progress):
            assert progress is not None  # noqa: S101 - nothing is over
            return Job(JobState.RUNNING, progress.current, progress.total)
        try:
            job = judge(noted, progress, link_of(self._formats, noted.overlay))
        except ImageError as error:
            return Job(JobState.FAILED, noted.done, noted.total, str(error))
        if job.state is JobState.DONE:
            # The base first: the image above names it.
            durable.sync_file(noted.base.path)
            durable.sync_file(noted.overlay.path)
        return job

    @staticmethod
    def _not_begun(vbd: Vbd, error: Refused) -> Exception:
        """What the refusal of a commit means."""
        if error.number == errno.EOPNOTSUPP:
            return Unimplemented(f"this tapdisk does not merge the images: {error.detail}")
        if error.number != errno.EINVAL:
            return error
        try:
            # This also clears away the end of an earlier job that nobody asked about.
            status = vbd.control.query(vbd.minor).status
        except Refused:
            return Unimplemented("this tapdisk cannot merge images")
        return Busy(f"tapdisk has a job that is not ours ({status}), or does not know the image")


def require_commit(vbd: Vbd) -> Commit:
    """The commit of a VBD; `VdiMissing` when there is none."""
    if vbd.commit is None:
        raise VdiMissing(f"{vbd.note.disk.vdi} has no commit")
    return vbd.commit
