"""A command cut short at each of its calls in turn, on the same site, and what must hold then."""

from __future__ import annotations

import errno
import random
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from tests.support import guest, invariants
from tests.support.failing import KILL, Call, calls_of, failing
from tests.support.forked import Outcome, command
from tests.support.saved import Saved
from tests.support.site import Site
from tests.support.tiers import SEED, SOAK, chosen

ERRORS = (errno.EIO, errno.ENOSPC, errno.EROFS)
ONE_IN = 8


@dataclass(frozen=True)
class Subject:
    """A command on a site at rest. `disks`: what each visible disk of the SR reads as before.

    `touched` is the disk that the command is about. `expected`: from the visible disks after it was
    cut short and the next command has run, what each of these must read as. `undone`: if it fails,
    nothing of it is left. `settles`: it mends itself when it is run again, and needs no other.
    `readable`: at any moment, its disks can be read without that anything is mended before.
    """

    name: str
    saved: Saved
    sr: str
    arguments: tuple[str, ...]
    disks: dict[str, bytes]
    touched: str
    expected: Callable[[set[str]], dict[str, bytes]]
    undone: bool = True
    settles: bool = False
    readable: bool = True
    reader: guest.Reader = field(default_factory=guest.Reader)

    @property
    def site(self) -> Site:
        """Where it runs."""
        return self.saved.site

    def calls(self) -> list[Call]:
        """Its calls when it is not disturbed."""
        self.saved.restore()
        return calls_of(self.site.environment, self.arguments)

    def cut_short(self, call: Call, error: int) -> bool:
        """Run it from the beginning with one call failing; whether it came there.

        EROFS stays to the end of the command, which then may leave what a crash may leave.
        """
        self.saved.restore()
        lasting = error == errno.EROFS
        prepare = failing(call, error, lasting=lasting)
        outcome = command(self.site.environment, self.arguments, prepare)
        said = f"{self.name}: {errno.errorcode.get(error, 'killed')} at {call}"
        try:
            assert outcome.killed == bool(error == KILL and outcome.notes)
            self.verify(outcome, strict=not lasting)
        except AssertionError as failed:
            failed.add_note(said)
            raise
        return bool(outcome.notes)

    def verify(self, outcome: Outcome, *, strict: bool) -> None:
        """See that all is well after a command; `strict`: with no trace of one that failed."""
        if not outcome.killed:
            assert outcome.done == ("error" not in outcome.document), outcome
        refused = strict and self.undone and not outcome.done and not outcome.killed
        for uuid, data in self.disks.items() if self.readable else ():
            if uuid != self.touched or refused:
                self.see(uuid, data)
        if not self.settles:
            self.site.sm("sr", "scan", self.sr)
        forest = self.site.repository(self.sr).look("test").forest
        now = {node.uuid for node in forest if not node.hidden}
        disks = self.disks if refused else self.expected(now)
        invariants.check(self.site, self.sr, disks, self.reader.content)

    def see(self, uuid: str, data: bytes) -> None:
        """See that a disk reads as it must, now."""
        seen = self.reader.content(self.site.chain(self.sr, uuid))
        assert seen == data, f"{uuid} right after the command"


def meet(subjects: Iterable[Subject], errors: Sequence[int], name: str) -> tuple[int, int]:
    """Fail calls of commands at one in so many of their places, with one of the errors.

    In a soak each call of each command fails once, with the errors in turn, and each place with
    each of the errors. Returns how many attempts there were, and at how many places.
    """
    if not SOAK:
        return _meet_some(subjects, errors, name)
    met: dict[str, set[int]] = defaultdict(set)
    first: dict[str, tuple[Subject, Call]] = {}
    attempts = 0
    for subject in subjects:
        for number, call in enumerate(subject.calls()):
            first.setdefault(call.place, (subject, call))
            left = [error for error in errors if error not in met[call.place]] or errors
            error = left[number % len(left)]
            attempts += 1
            if subject.cut_short(call, error):
                met[call.place].add(error)
    for place, (subject, call) in first.items():
        for error in set(errors) - met[place]:
            attempts += 1
            assert subject.cut_short(call, error), f"{subject.name} never came to {call}"
    return attempts, len(first)


def _meet_some(subjects: Iterable[Subject], errors: Sequence[int], name: str) -> tuple[int, int]:
    """The same for some of the places: of each, one call with one error, as the commit chooses."""
    dice = random.Random(f"{SEED} {name}")
    calls: dict[str, list[tuple[Subject, Call]]] = defaultdict(list)
    for subject in subjects:
        for call in subject.calls():
            calls[call.place].append((subject, call))
    places = chosen(calls.values(), ONE_IN, name)
    for of_a_place in places:
        subject, call = dice.choice(of_a_place)
        assert subject.cut_short(call, dice.choice(errors)), f"{subject.name} never came to {call}"
    return len(places), len(places)
