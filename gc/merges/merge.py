"""The part that all kinds of merge share: claim the images, make room, copy, and prove the copy.

Nothing here changes what any disk reads: what goes down is hidden by the images that it came from,
and what goes up is what the image shows anyway.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from sm import claims, coverage, users
from sm.claims import Claim
from sm.cowutil.base import AT_ONCE, CowUtil, ImageRef, Progress, Steps
from sm.cowutil.errors import Cancelled
from sm.errors import SrNoSpace
from sm.gc.copying import comparison, resume
from sm.gc.copying.background import in_background
from sm.gc.copying.control import Control
from sm.gc.plan import costs
from sm.journal import Entry
from sm.repository import Repository
from sm.tree import Forest, Node
from sm.users import User

if TYPE_CHECKING:  # numpy is slow to import, and the CLI that only asks needs none of it
    from sm.cowutil.extents import Extents

LONG_STEPS = 8
"""A merge of more than these is done in steps: it gives back space early, or can be resumed."""

SMALLEST_STEP = 8 << 20
"""Bytes; a smaller step would cost more in syncs than it saves in space."""


class Overtaken(Exception):
    """Somebody else changed or uses the images; the work is given up, to be planned again."""


class Halted(Overtaken):
    """The collector was told not to copy now; `code` says by what."""

    def __init__(self, code: str, reason: str) -> None:
        super().__init__(reason)
        self.code = code


class Postponed(Overtaken):
    """The work could not be done now, for the reason `code`; it is worth no try before `seconds`.

    All disks read as before, and no tree is taller than it was.
    """

    def __init__(self, code: str, reason: str, seconds: float = 600.0) -> None:
        super().__init__(reason)
        self.code = code
        self.seconds = seconds


@dataclass(frozen=True, slots=True)
class Done:
    """One finished piece of work. `images` are the UUIDs that are gone. Sizes in bytes.

    `through` is the VDI whose datapath copied, or was held, where one did; `pause_seconds`: for how
    long its users were held at most.
    """

    action: str
    images: tuple[str, ...]
    into: str | None = None
    leaf: str | None = None
    bytes_copied: int = 0
    bytes_freed: int = 0
    through: str | None = None
    pause_seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Work:
    """A merge that is journaled and claimed.

    All of `chain[:into]` goes down into `chain[into]`; or, with `into` 0, what the `below` images
    under it hold goes up. `held` is what the images that go held when the work began, `own` what
    the target did. `users` are those of the disks above, after the claim was published.
    """

    entry: Entry
    claim: Claim
    chain: tuple[ImageRef, ...]
    into: int
    below: int
    held: Extents
    own: Extents
    users: tuple[User, ...]
    steps: Steps = AT_ONCE

    @property
    def target(self) -> ImageRef:
        """The image that is merged into."""
        return self.chain[self.into]

    @property
    def merged(self) -> tuple[ImageRef, ...]:
        """The images that go, uppermost first."""
        return self.chain[: self.into] if self.into else self.chain[1 : 1 + self.below]


def require_bare(forest: Forest, run: Sequence[str]) -> None:
    """Raise `Postponed` while anything else hangs on the images of a run, uppermost first.

    It is garbage that could not be deleted: the plan does not count that, and merged images that
    something hangs on could not be removed.
    """
    for upper, lower in pairwise(run):
        others = [child for child in forest.children_of(lower) if child != upper]
        if others:
            reason = f"{', '.join(others)} could not be deleted, and hangs on {lower}"
            raise Postponed("garbage-left", reason)


def chain_from(repository: Repository, forest: Forest, top: str) -> list[ImageRef]:
    """The images from `top` down to the base."""
    return repository.images(forest.chain(top))


def start(
    repository: Repository,
    operation: str,
    top: str,
    images: Sequence[str],
    confirm: Callable[[], None],
    *,
    upwards: bool = False,
    written: bool = False,
) -> Work:
    """Journal and claim a merge of `top` and those below it into the last of `images`.

    `images` are the rest of the chain that the work is about, uppermost first; they may begin with
    `top`, which somebody may be writing to (`written`). With `upwards` they go into `top`.
    `confirm` is called with the SR lock held before anything is done. The entry is at stage `copy`.

    Raises `SrNoSpace` before anything is done.
    """
    with repository.locked(operation):
        confirm()
        forest = repository.scan().forest
        chain = forest.chain(top)
        last = [node.uuid for node in chain].index(images[-1])
        into, below = (0, last) if upwards else (last, 0)
        require_bare(forest, [node.uuid for node in chain[: last + 1]])
        # Tables that somebody writes to cannot be read; all of them may be new to the target.
        first = 1 if written else 0
        merged = [node for node in chain[first : last + 1] if node is not chain[into]]
        unknown = repository.store.volume(top, chain[0].format).used if written else 0
        refs = tuple(repository.images(chain))
        held = coverage.held_by(repository.formats, repository.images(merged))
        own = coverage.held_by(repository.formats, [refs[into]])
        alone = not users.above(repository, forest, images[-1])
        growth = held.minus(own).total + unknown
        short = _require_space(repository, refs[into], growth, alone=alone)
        entry, claim = _publish(repository, operation, chain, into, images)
        if not short and (not written or repository.store.sized):
            _reserve(repository, entry, growth, becomes_leaf=chain[0] if written else None)
        # Published first, looked second: an activation that this misses will see the claim.
        above = tuple(users.above(repository, forest, images[-1]))
    steps = AT_ONCE
    length = repository.settings.gc_step_bytes
    if short or held.total > LONG_STEPS * length:
        if short and above:
            release(repository, entry)
            raise SrNoSpace(f"merging into {refs[into].path.name} is possible when nobody uses it")
        give_back = alone and not above and _may_give_back(repository)
        steps = Steps(give_back=give_back)
        # A disk's own image may have been written since, by whom this host knows nothing of.
        if not give_back and all(node.hidden for node in merged):
            prints = resume.prints(repository, [node.uuid for node in merged], entry.data["format"])
            steps = resume.steps(repository, entry.data["into"], prints)
        if short:
            length = _step_length(repository, repository.store.space().free)
        steps = replace(steps, length=length)
    return Work(entry, claim, refs, into, below, held, own, above, steps)


def _publish(
    repository: Repository, operation: str, chain: Sequence[Node], into: int, images: Sequence[str]
) -> tuple[Entry, Claim]:
    """Write the entry, then the claim."""
    top, target = chain[0], chain[into]
    last = [node.uuid for node in chain].index(images[-1])
    entry = repository.journal.open(
        operation,
        top.uuid,
        "copy",
        format=target.format,
        into=target.uuid,
        images=list(images),
        below=chain[last].parent,
        fingerprint=repository.store.fingerprint(top.uuid, top.format),
    )
    try:
        return entry, claims.publish_merge(repository, target.uuid, {top.uuid, *images})
    except BaseException:
        repository.journal.close(entry)
        raise


def _reserve(repository: Repository, entry: Entry, growth: int, becomes_leaf: Node | None) -> None:
    """Give the target room for what it is to hold, and for what its users will write to it then."""
    into, image_format = entry.data["into"], entry.data["format"]
    try:
        # Whoever writes to a thin volume is held when too little is left.
        grows = becomes_leaf is not None and repository.store.grows
        ahead = repository.settings.thin_spare_bytes if grows else 0
        repository.store.reserve(into, image_format, costs.space_for(growth) + ahead)
        if becomes_leaf is not None:
            room = repository.room(image_format, becomes_leaf.virtual_size, written=True)
            repository.store.make_room(into, image_format, room, in_use=False)
    except BaseException:
        release(repository, entry)
        raise


def _require_space(repository: Repository, target: ImageRef, growth: int, *, alone: bool) -> bool:
    """Whether there is so little space that merged images must give back theirs meanwhile.

    Raises `SrNoSpace` when there is too little even so, or when that cannot be.
    """
    need, free = costs.space_for(growth), repository.store.space().free
    if need <= free:
        return False
    if alone and _may_give_back(repository):
        need = costs.space_for(min(growth, 2 * _step_length(repository, free)))
    if need <= free:
        return True
    raise SrNoSpace(
        f"merging into {target.path.name} needs {need} bytes, {free} are free: {need - free} are"
        " missing"
    )


def _may_give_back(repository: Repository) -> bool:
    """Whether images may let go of what was copied; where volumes have a size it frees nothing."""
    return not repository.store.sized and not comparison.wanted(repository)


def _step_length(repository: Repository, free: int) -> int:
    """How much to copy in one step when space is short, in bytes."""
    return max(SMALLEST_STEP, min(repository.settings.gc_step_bytes, free // 4))


def copy(repository: Repository, work: Work, control: Control) -> int:
    """Copy, sync, and prove the copy; returns the guest bytes copied. On failure all is given up.

    Raises `Overtaken` when an activation asked for the images. `Cancelled` leaves entry and claim:
    whoever ends at once has no time to mend the target, and the next start, or whoever wants the
    images first, does that.
    """
    cow = repository.formats.cow(work.target.format)
    heard = yielding(repository, work.claim, control)
    steps = replace(work.steps, bytes_per_second=control.bytes_per_second)
    control.keeps_itself = bool(cow.copies_by_tool and work.into and not steps.wanted)
    try:
        with _opened_to_be_written(repository, work, cow):
            copied = in_background(lambda: _copy(cow, work, heard, steps))
        coverage.prove(repository.formats, work.target, work.held)
        if comparison.wanted(repository):
            covered = coverage.union(()) if work.into else work.own
            comparison.compare(repository, work.merged, work.target, before=covered)
        _trim(repository, work.entry)
    except Cancelled:
        raise
    except BaseException:
        abandon(repository, work.entry)
        raise
    resume.forget(repository, work.entry.data["into"])
    return copied


@contextmanager
def _opened_to_be_written(repository: Repository, work: Work, cow: CowUtil) -> Iterator[None]:
    """Let the uppermost image be written to for the block where a tool wants that of it.

    Such a tool opens it for writing although it only reads it. A crash leaves it so, which does no
    harm.
    """
    if not (cow.copies_by_tool and work.into):
        yield
        return
    with repository.store.writing(work.entry.key, cow.name):
        yield


def _copy(cow: CowUtil, work: Work, progress: Progress, steps: Steps) -> int:
    if work.into:
        return cow.coalesce(work.chain, work.into, progress, steps)
    return cow.pull(work.chain, work.below, progress, steps)


def yielding(repository: Repository, claim: Claim, control: Control) -> Control:
    """The control of a job that from now on also ends when somebody wants the claimed images."""

    def wanted() -> None:
        if claims.asked_to_yield(repository, claim):
            raise Overtaken("the merge gave way to the activation or change of a disk above it")

    control.give_way(wanted)
    return control


def target_of(repository: Repository, entry: Entry) -> ImageRef:
    """The image that an entry merges into; it need not be there any more."""
    image_format = entry.data["format"]
    return ImageRef(repository.path(entry.data["into"], image_format), image_format)


def target_exists(repository: Repository, entry: Entry) -> bool:
    """Whether the image that an entry merges into is there, by its own name."""
    return repository.store.exists(entry.data["into"], entry.data["format"])


def abandon(repository: Repository, entry: Entry) -> None:
    """Give up a merge that has only copied.

    The target is mended, because an interrupted tool may have left it with unused space.
    """
    target = target_of(repository, entry)
    if target_exists(repository, entry):
        with repository.store.writing(entry.data["into"], target.format):
            repository.formats.get(target.format).repair(target.path)
    release(repository, entry)


def _trim(repository: Repository, entry: Entry) -> None:
    """Give back what was reserved for the target, which nobody writes to any more.

    After a merge of a leaf it has the leaf's name, and may be written to.
    """
    if target_exists(repository, entry):
        repository.store.trim(entry.data["into"], entry.data["format"])


def release(repository: Repository, entry: Entry) -> None:
    """Withdraw the claim, then end the entry: a claim never outlives its entry."""
    _trim(repository, entry)
    claims.withdraw_merge(repository, entry.data["into"])
    repository.journal.close(entry)
