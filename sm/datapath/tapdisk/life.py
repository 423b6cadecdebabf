"""The tapdisk of a disk: started, found again after our own restart, ended.

Order of a start: note, minor, process, attach, open, note complete. A crash of ours leaves a note
without pid, perhaps with a marker and a process that carry the disk's name. The next look adopts a
process that serves the leaf of the note; all else is taken down before the disk is opened again.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from sm.cowutil.base import ImageRef
from sm.datapath import tokens
from sm.datapath.base import DatapathFailed, Disk, OutcomeUnknown, TapdiskFailed
from sm.datapath.state import Note, Notes
from sm.datapath.tapdisk import processes
from sm.datapath.tapdisk.commit import Commit
from sm.datapath.tapdisk.control import Control
from sm.datapath.tapdisk.links import argument
from sm.datapath.tapdisk.minors import Minors
from sm.datapath.tapdisk.wire import Listed, State
from sm.errors import SmError
from sm.owner import boot_id, start_time


@dataclass(frozen=True, slots=True)
class Patience:
    """Seconds: deadlines, and how often a commit is asked about.

    `pause` and `close` are for the users' requests under way; tapdisk itself tries for 10 s to
    open a chain on `resume`. `poll` grows up to `slowest_poll`.
    """

    start: float = 30.0
    answer: float = 10.0
    open: float = 60.0
    pause: float = 20.0
    resume: float = 60.0
    close: float = 60.0
    stop: float = 20.0
    poll: float = 1.0
    slowest_poll: float = 30.0


@dataclass(frozen=True, slots=True)
class Vbd:
    """A disk that a living tapdisk has open, or paused; `listed` as of now."""

    note: Note
    control: Control
    listed: Listed

    @property
    def minor(self) -> int:
        """Its number."""
        return self.listed.minor

    @property
    def paused(self) -> bool:
        """Whether its images are closed and its users wait."""
        return State.PAUSED in self.listed.state

    @property
    def pausing(self) -> bool:
        """Whether a pause waits for requests under way; its users wait already."""
        return State.PAUSE_REQUESTED in self.listed.state and not self.paused

    @property
    def running(self) -> bool:
        """Whether its users are served."""
        return not (self.paused or self.pausing)

    @property
    def commit(self) -> Commit | None:
        """The commit that was noted for it."""
        return noted_commit(self.note)

    @property
    def relinked(self) -> list[ImageRef]:
        """The images that got another parent by a commit since they were opened."""
        paths = self.note.extra.get("relinked", [])
        return [image for image in self.note.chain if str(image.path) in paths]


def noted_commit(note: Note) -> Commit | None:
    """The commit in a note."""
    noted = note.extra.get("commit")
    return None if noted is None else Commit.parse(noted)


CONTROL = "control"
"""In a note: the control directory that its tapdisk was started with."""


class Life:
    """Starts, finds and ends; notes below `folder`.

    Sockets and markers are below `control` for what is started now, else where the note says.
    """

    def __init__(self, folder: Path, control: Path, binary: str, patience: Patience) -> None:
        self._folder = folder
        self._notes = Notes(folder)
        self._control_folder = control
        self._binary = binary
        self._patience = patience

    def note(self, disk: Disk) -> Note | None:
        """The note of a disk whose tapdisk lives; None also for one that is half started."""
        note = self._notes.read(disk)
        if note is not None and note.pid == 0:
            note = self._adopted(note)
        return note if note is not None and note.alive else None

    def notes(self) -> Iterator[Note]:
        """The notes of all disks whose tapdisk lives."""
        for each in self._notes:
            note = self.note(each.disk)
            if note is not None:
                yield note

    def half_started(self) -> list[Disk]:
        """The disks whose notes have no process, and none that has the leaf open."""
        return [each.disk for each in self._notes if not each.pid and not self._ready(each)]

    def settle(self, disk: Disk) -> None:
        """End what is half started."""
        note = self._notes.read(disk)
        if note is not None and note.pid == 0 and not self._ready(note):
            self.end(disk)

    def look(self, disk: Disk) -> Vbd | None:
        """The VBD of a disk; None when no tapdisk has it open.

        Raises `OutcomeUnknown` where a living tapdisk does not answer, `DatapathFailed` where it
        serves something else than was noted.
        """
        note = self.note(disk)
        return None if note is None else self.vbd(note)

    def vbd(self, note: Note) -> Vbd | None:
        """The same for a note that `note` gave."""
        control = self._control(note, note.pid)
        try:
            vbds = control.list()
        except OutcomeUnknown:
            if note.alive:
                raise
            return None
        listed = next((each for each in vbds if each.minor == note.extra["minor"]), None)
        if listed is None or not listed.argument:
            return None
        vbd = Vbd(note, control, listed)
        # While it is paused, its name may be that of a leaf that it failed to open.
        if not vbd.paused and listed.argument != argument(note.chain[0]):
            raise TapdiskFailed(
                f"tapdisk {note.pid} serves {listed.argument}, and not {note.chain[0].path} as was"
                " noted: somebody else changed it"
            )
        return vbd

    def start(self, disk: Disk, chain: Sequence[ImageRef], *, read_only: bool) -> Note:
        """Start a tapdisk and have it open the chain. What fails is undone."""
        extra: dict[str, Any] = {CONTROL: str(self._control_folder)}
        note = Note(disk, tuple(chain), read_only, boot=boot_id(), extra=extra, token=tokens.new())
        self._notes.write(note)
        try:
            minor = self._minors(note).allocate(self._owner(disk))
            pid = processes.start(self._binary, self._owner(disk), self._patience.start, note.token)
            control = self._control(note, pid)
            if control.pid() != pid:
                raise TapdiskFailed(f"another process answers on the socket of tapdisk {pid}")
            control.attach(minor)
            control.open(
                minor, argument(chain[0]), read_only=read_only, seconds=self._patience.open
            )
            return self._notes.write(replace(note, extra={**extra, "minor": minor}).of_process(pid))
        except BaseException as error:
            try:
                self.end(disk)
            except SmError as second:
                error.add_note(f"and then: {second}")
            raise

    def end(self, disk: Disk) -> None:
        """Close, detach, free; what is left of a start or an end that broke off, too.

        Raises `DatapathFailed`, with all gone, when the process had to be killed while it had
        images open.
        """
        note = self._notes.read(disk)
        if note is None:
            return
        pid = note.pid if note.alive else None
        if note.pid == 0:
            pid = processes.find(self._folder_of(note), self._owner(disk))
        failure = None if pid is None else self._take_down(note, pid)
        if note.pid == 0 and note.token:
            tokens.end(note.token)  # what had no control socket yet
        minors = self._minors(note)
        for minor in minors.owned(self._owner(disk)):
            minors.free(minor)
        self._notes.forget(disk)
        if failure is not None:
            raise failure

    def save(
        self,
        note: Note,
        *,
        commit: Commit | None,
        chain: Sequence[ImageRef] | None = None,
        relinked: Sequence[ImageRef] | None = None,
        paused: bool | None = None,
    ) -> Note:
        """Note the commit, or that there is none; and of the rest what is given."""
        extra = {key: value for key, value in note.extra.items() if key != "commit"}
        if commit is not None:
            extra["commit"] = commit.noted
        if relinked is not None:
            extra["relinked"] = [str(image.path) for image in relinked]
        note = replace(note, extra=extra)
        if chain is not None:
            note = replace(note, chain=tuple(chain))
        if paused is not None:
            note = replace(note, paused=paused)
        return self._notes.write(note)

    def nbd_socket(self, note: Note) -> Path:
        """Where tapdisk answers NBD clients."""
        return self._folder_of(note) / f"nbd{note.pid}.{note.extra['minor']}"

    def _ready(self, note: Note) -> bool:
        """Whether a process that is not noted has the leaf of a note open; it is noted then."""
        try:
            return self._adopted(note) is not None
        except OutcomeUnknown:
            return False  # it answers nobody, so nobody was given it

    def _adopted(self, note: Note) -> Note | None:
        """A note completed with the process that was started for it and has its leaf open."""
        pid = processes.find(self._folder_of(note), self._owner(note.disk))
        if pid is None:
            return None
        wanted = argument(note.chain[0])
        for each in self._control(note, pid).list():
            if each.argument == wanted:
                extra = {**note.extra, "minor": each.minor}
                return self._notes.write(replace(note, extra=extra).of_process(pid))
        return None

    def _take_down(self, note: Note, pid: int) -> DatapathFailed | None:
        """End a process of ours; returns what went wrong while it had images open."""
        started = start_time(pid)
        if started is None:
            return None
        failure: DatapathFailed | None = None
        control, opened, attached = self._control(note, pid), True, True
        try:
            vbds = control.list()
            attached = bool(vbds)
            for vbd in vbds:
                if vbd.argument:
                    control.close(vbd.minor, self._patience.close)
            opened = False
            for vbd in vbds:
                control.detach(vbd.minor)
        except OutcomeUnknown as error:
            attached = False  # it will not end by itself
            if opened:
                failure = TapdiskFailed(
                    f"tapdisk {pid} did not close its images and had to be killed, which may have"
                    f" cost the last writes: {error.detail}"
                )
        if not attached or not processes.wait_for_end(pid, started, self._patience.stop):
            processes.kill(pid, started, self._patience.stop)
        return failure

    def _folder_of(self, note: Note) -> Path:
        """Where its tapdisk is reached; earlier versions noted no folder."""
        return Path(note.extra.get(CONTROL, self._control_folder))

    def _minors(self, note: Note) -> Minors:
        return Minors(self._folder_of(note) / "tapdisk")

    def _control(self, note: Note, pid: int) -> Control:
        return Control(self._folder_of(note) / f"ctl{pid}", self._patience.answer)

    def _owner(self, disk: Disk) -> str:
        return str(self._folder / disk.vdi)
