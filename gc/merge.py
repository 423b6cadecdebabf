"""The part that all kinds of merge share: claim the images, copy, and prove the copy.

Nothing here changes what any disk reads: the target is hidden and has one child, and whatever is
copied into it is still covered by the images that it came from.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sm import claims, users
from sm.claims import Claim
from sm.cowutil.base import ImageRef, Progress
from sm.errors import SmError, SrNoSpace
from sm.journal import Entry
from sm.repository import Repository
from sm.tree import Forest
from sm.users import User

SPARE_BYTES = 4 << 20
"""Kept free beyond what a merge is expected to take, for tables and for the file system."""


class Overtaken(Exception):
    """Somebody else changed or uses the images; the work is given up, to be planned again."""


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
    """A merge that is journaled and claimed: all of `chain` above `chain[into]` goes into that.

    `users` are those of the disks above, as they were after the claim was published.
    """

    entry: Entry
    claim: Claim
    chain: tuple[ImageRef, ...]
    into: int
    users: tuple[User, ...]

    @property
    def target(self) -> ImageRef:
        """The image that is merged into."""
        return self.chain[self.into]


def chain_from(repository: Repository, forest: Forest, top: str) -> list[ImageRef]:
    """The images from `top` down to the base."""
    return [repository.image(node) for node in forest.chain(top)]


def bytes_to_copy(repository: Repository, chain: Sequence[ImageRef], into: int) -> int:
    """How many guest bytes the images above `chain[into]` hold; each is copied once."""
    first, *others = chain[:into]
    held = repository.formats.get(first.format).allocated_extents(first.path)
    for image in others:
        held = held.union(repository.formats.get(image.format).allocated_extents(image.path))
    return held.total


def require_space(
    repository: Repository, chain: Sequence[ImageRef], into: int, written: int = 0
) -> None:
    """Raise `SrNoSpace` unless the target can take what it does not hold yet.

    `written`: what the uppermost image takes on the storage, where somebody writes to it: its
    tables cannot be read then, and all of it may be new to the target. Else 0.
    """
    target = chain[into]
    own = repository.formats.get(target.format).allocated_extents(target.path)
    growth = written
    for image in chain[1 if written else 0 : into]:
        held = repository.formats.get(image.format).allocated_extents(image.path)
        growth += held.minus(own).total
        own = own.union(held)
    need = growth + growth // 512 + SPARE_BYTES
    free = repository.store.space().free
    if need > free:
        raise SrNoSpace(f"merging into {target.path.name} needs {need} bytes, {free} are free")


def start(
    repository: Repository,
    operation: str,
    top: str,
    images: Sequence[str],
    confirm: Callable[[], None],
    *,
    written: bool = False,
) -> Work:
    """Journal and claim a merge of `top` and those below it into the last of `images`.

    `images` are the rest of the chain that the work is about, uppermost first; they may begin with
    `top`, which somebody may be writing to (`written`). `confirm` is called with the SR lock held
    before anything is done. The entry is at stage `copy`.

    Raises `SrNoSpace` before anything is done.
    """
    with repository.locked(operation):
        confirm()
        forest = repository.scan().forest
        chain = chain_from(repository, forest, top)
        into = [node.uuid for node in forest.chain(top)].index(images[-1])
        used = repository.store.volume(top, forest[top].format).used if written else 0
        require_space(repository, chain, into, used)
        entry = repository.journal.open(
            operation,
            top,
            "copy",
            format=forest[top].format,
            into=images[-1],
            images=list(images),
            fingerprint=repository.store.fingerprint(top, forest[top].format),
        )
        try:
            claim = claims.publish_merge(repository, images[-1], {top, *images})
        except BaseException:
            repository.journal.close(entry)
            raise
        # Published first, looked second: an activation that this misses will see the claim.
        above = users.above(repository, forest, images[-1])
    return Work(entry, claim, tuple(chain), into, tuple(above))


def copy(repository: Repository, work: Work, progress: Progress) -> int:
    """Copy, sync, and prove the copy; returns the guest bytes copied. On failure all is given up.

    Raises `Overtaken` when an activation asked for the images.
    """
    image_format = repository.formats.cow(work.target.format)
    try:
        copied = image_format.coalesce(
            work.chain, work.into, yielding(repository, work.claim, progress)
        )
        prove(repository, work.chain, work.into)
    except BaseException:
        abandon(repository, work.entry)
        raise
    return copied


def yielding(repository: Repository, claim: Claim, progress: Progress) -> Progress:
    """`progress` that ends the work when somebody wants the claimed images."""

    def heard(done: int, total: int) -> None:
        if claims.asked_to_yield(repository, claim):
            raise Overtaken("the merge gave way to the activation or change of a disk above it")
        progress(done, total)

    return heard


def prove(repository: Repository, chain: Sequence[ImageRef], into: int) -> None:
    """Raise unless the tables say that the target now holds all that was above it."""
    target = chain[into]
    holds = repository.formats.cow(target.format).allocated_extents(target.path)
    for image in chain[:into]:
        held = repository.formats.get(image.format).allocated_extents(image.path)
        if not holds.covers(held):
            missing = held.minus(holds).total
            raise SmError(
                f"{target.path.name} lacks {missing} bytes of {image.path.name} after the merge;"
                " nothing was deleted"
            )


def target_of(repository: Repository, entry: Entry) -> ImageRef:
    """The image that an entry merges into; it need not be there any more."""
    image_format = entry.data["format"]
    return ImageRef(repository.store.path(entry.data["into"], image_format), image_format)


def abandon(repository: Repository, entry: Entry) -> None:
    """Give up a merge that has only copied.

    The target is mended, because an interrupted tool may have left it with unused space.
    """
    target = target_of(repository, entry)
    if target.path.exists():
        repository.formats.get(target.format).repair(target.path)
    release(repository, entry)


def release(repository: Repository, entry: Entry) -> None:
    """Withdraw the claim, then end the entry: a claim never outlives its entry."""
    claims.withdraw_merge(repository, entry.data["into"])
    repository.journal.close(entry)
