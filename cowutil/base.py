"""What the storage manager needs of an image format, as two abstract classes.

`ImageFormat` is any format; `CowUtil` adds what only a copy-on-write format can do. A caller that
needs a chain asks for a `CowUtil`, so no format ever answers "does not apply".

Paths name a regular file or a block device. Nothing here follows a link from one image to another:
a caller that means a chain passes all its members, leaf first, each with its format. So no image
can make us open a file that its storage repository did not give us.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, ClassVar, Protocol, Self

from sm.cowutil.stream import Measure, Piece, Read

if TYPE_CHECKING:  # numpy costs 100 ms to import, and the header of an image needs none of it
    from sm.cowutil.extents import ExtentMap, Extents

Progress = Callable[[int, int], None]
"""Called now and then with (bytes done, bytes in all); may raise `Cancelled` to stop the work."""


Plain = str | int | bool | None | Sequence["Plain"] | Mapping[str, "Plain"]
"""A value that JSON can hold."""


def no_progress(done: int, total: int) -> None:
    """Ignore progress."""


def no_step(reached: int) -> None:
    """Take no notice."""


@dataclass(frozen=True, slots=True)
class Steps:
    """How a long copy may be taken up again, and what it may give back. Bytes of the disk.

    `begin`: all in front of it is in the target already, from an earlier call with the same images.
    `reached` hears of each byte up to which everything is durable. With `give_back`, the images
    that are copied from let go of what the target has: nobody else may have them open. `length`: so
    many bytes are copied in one step. Each time that something is given back is within `giving`,
    which may raise before it. `bytes_per_second` is for an external tool that copies; what
    copies inside of this process is held back by `progress`, which may sleep.
    """

    begin: int = 0
    reached: Callable[[int], None] = no_step
    give_back: bool = False
    length: int = 128 << 20
    giving: Callable[[], AbstractContextManager[None]] = nullcontext
    bytes_per_second: int | None = None

    @property
    def wanted(self) -> bool:
        """Whether the copy must be done in steps at all."""
        return self.begin > 0 or self.give_back or self.reached is not no_step


AT_ONCE = Steps()
"""From the beginning, to be repeated from there."""


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One member of a chain: where it is and how to read it."""

    path: Path
    format: str


@dataclass(frozen=True, slots=True)
class ParentLink:
    """The parent as an image names it: untrusted text, not followed.

    `name` is a base name without folder, or `/dev/<group>/<name>`, as other managers write for
    logical volumes; a link that is anything else is refused on reading.
    `format` is None where the image does not say (VHD: a VHD or, with `raw`, a raw parent).
    `identity` is that of the parent where the format has such, empty where not.
    """

    name: str
    format: str | None
    identity: bytes = field(default=b"", compare=False)


@dataclass(frozen=True, slots=True)
class ImageInfo:
    """What the headers of one image say. Sizes in bytes.

    `virtual_size`: the disk as the guest sees it. `block_size`: unit of allocation.
    `marks`: what its writer noted against it (`dirty`, `corrupt`), empty when all is well.
    `identity`: by which children may name it, whatever it is called; empty where there is none.
    """

    path: Path
    format: str
    virtual_size: int
    block_size: int
    hidden: bool
    parent: ParentLink | None
    marks: tuple[str, ...] = ()
    identity: bytes = b""


@dataclass(frozen=True, slots=True)
class Magic:
    """Bytes that tell a format: `value` at byte `offset`, counted from the end when negative."""

    offset: int
    value: bytes


@dataclass(frozen=True, slots=True)
class SizeLimits:
    """Virtual sizes that a format can hold, in bytes; each is a multiple of `granularity`."""

    minimum: int
    maximum: int
    granularity: int


@dataclass(frozen=True, slots=True)
class CheckReport:
    """The verdict on one image: `corruptions` endanger data, `leaks` only waste space."""

    path: Path
    corruptions: tuple[str, ...] = ()
    leaks: tuple[str, ...] = ()

    @property
    def clean(self) -> bool:
        """Whether nothing was found, not even leaked space."""
        return not self.corruptions and not self.leaks


@dataclass(frozen=True, slots=True)
class ToolResult:
    """How a child process ended."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str = field(repr=False)


class ToolRunner(Protocol):
    """Runs one external tool to its end; `sm.process` has the real one."""

    def __call__(
        self,
        argv: Sequence[str],
        *,
        timeout: float,
        accept: Collection[int] = (0,),
        inspect: bool = False,
        watch: Callable[[str], None] | None = None,
    ) -> ToolResult:
        """Run `argv` (no shell) for at most `timeout` seconds.

        An exit code outside `accept` is an error. `inspect` applies the tight limits on CPU and
        memory for tools that only look at an untrusted image. `watch` gets new standard output at
        least five times a second (also when it is empty); when it raises, the tool is ended.
        """


class Layer(ABC):
    """One image opened for reading the guest bytes that it holds itself; a context manager."""

    virtual_size: int

    @abstractmethod
    def map(self) -> ExtentMap:
        """Everything that this image holds, in guest order."""

    @abstractmethod
    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill `buffer` with guest bytes from `offset`; every one of them must be in the map."""

    @abstractmethod
    def close(self) -> None:
        """Release the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class ImageFormat(ABC):
    """One image format. Every reading method leaves the file as it is, byte for byte."""

    name: ClassVar[str]
    limits: ClassVar[SizeLimits]
    magics: ClassVar[tuple[Magic, ...]] = ()
    """What an image of the format has in certain places; nothing where there is no such sign."""

    @abstractmethod
    def info(self, path: Path) -> ImageInfo:
        """Read the headers: a few small reads, no tables, no child process."""

    def details(self, path: Path) -> Mapping[str, Plain]:
        """What else the format can tell of an image, for people; times in seconds since 1970."""
        del path
        return {}

    @abstractmethod
    def allocated_extents(self, path: Path) -> Extents:
        """The guest bytes that this image holds itself, zeroes that hide a parent included."""

    @abstractmethod
    def allocated_size(self, path: Path) -> int:
        """How many guest bytes this image holds itself; never too few."""

    @abstractmethod
    def open_layer(self, path: Path) -> Layer:
        """Open for reading guest data, without its parents."""

    @abstractmethod
    def full_size(self, virtual_size: int) -> int:
        """How large a volume must be for an image of `virtual_size` that is fully written."""

    @abstractmethod
    def empty_size(self, virtual_size: int) -> int:
        """How large a volume must be for an image of `virtual_size` that holds nothing."""

    def sparse_size(self, virtual_size: int) -> int:
        """What such an image takes of a file system, in bytes: all of it, but for holes."""
        return self.empty_size(virtual_size)

    @abstractmethod
    def used_size(self, path: Path) -> int:
        """Up to where the file or volume is in use, in bytes: a volume may be cut there, see `fit`.

        Right for an image whose check finds no corruption, and that nobody else writes to.
        """

    def fit(self, path: Path, size: int, *, added_from: int | None = None) -> None:
        """Make the image ready for its volume to be `size` bytes long, durably.

        Called before the volume is cut, with no less than `used_size`, and after it was extended,
        with its new size; then what lies from byte `added_from` on may hold anything. For a format
        whose images do not care where their volume ends nothing is to do.
        """
        del path, size, added_from

    @abstractmethod
    def measure(self, virtual_size: int, data: Extents) -> Measure:
        """How long `stream` makes an image, to the byte; ValueError as there."""

    @abstractmethod
    def stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        """A new image without parent, in pieces from front to back, for a pipe or a file.

        It holds a disk of `virtual_size` bytes, rounded up to what the format can hold, which is
        zero outside of `data`. `read` is called for ascending ranges, never beyond `virtual_size`.
        ValueError for a size of no whole sectors, or above the largest of the format.
        """

    @abstractmethod
    def create(self, path: Path, virtual_size: int) -> None:
        """Make an empty image, durable on return; `path` is new, or a volume to overwrite."""

    @abstractmethod
    def resize(self, path: Path, virtual_size: int) -> None:
        """Grow the disk; the new part reads as zero. Smaller is `SizeOutOfRange`."""

    @abstractmethod
    def check(self, path: Path) -> CheckReport:
        """Examine all metadata without changing any."""

    @abstractmethod
    def repair(self, path: Path) -> CheckReport:
        """Mend what can be mended without guessing at guest data; report what then remains."""


class CowUtil(ImageFormat):
    """A copy-on-write format: an image may hold only what differs from its parent."""

    max_chain_length: ClassVar[int] = 30
    parent_formats: ClassVar[frozenset[str]]
    merged_beside: ClassVar[bool]
    """Whether `coalesce` may run while others have the chain open and write to its uppermost image.

    They never write to the images that it merges or merges into, and go on reading what they read
    before; they must open the chain anew before the merged images go. Where false, only the process
    that has the chain open may merge its images.
    """

    def moves_to_grow(self, path: Path, virtual_size: int) -> bool:
        """Whether growing the disk to `virtual_size` moves what readers may have found already.

        Where `merged_beside`, `coalesce` may grow its target only if it does not.
        """
        del path, virtual_size
        return False

    def moves_to_relink(self, path: Path, parent: Path) -> bool:
        """Whether naming `parent` does so; then nobody may have the image open."""
        del path, parent
        return False

    copies_by_tool: ClassVar[bool] = False
    """Whether `coalesce` has an external tool copy, which keeps to `bytes_per_second` by itself."""

    @abstractmethod
    def snapshot(self, path: Path, parent: ImageRef, virtual_size: int) -> None:
        """Make an empty child of `parent` at `path`, durable on return.

        `parent` is in the same folder and is not changed. `virtual_size` is at least the parent's.
        """

    @abstractmethod
    def set_parent(self, path: Path, parent: ImageRef | None) -> None:
        """Name another parent, or none, durably and in one atomic step. No guest data is moved."""

    @abstractmethod
    def set_hidden(self, path: Path, hidden: bool) -> None:
        """Write the hidden mark, durably. Nobody else may have the image open for writing."""

    @abstractmethod
    def coalesce(
        self,
        chain: Sequence[ImageRef],
        into: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Merge `chain[:into]` (uppermost first) into `chain[into]`, durable on return.

        `chain` goes on down to the base. Each guest byte is written once, from the uppermost image
        that holds it. The merged images are only read, unless `steps` lets them give back what was
        copied. The target grows to the size of `chain[0]` first, if smaller. Stopping anywhere
        (kill included) leaves the disk seen through `chain[0]` as it was, and the work may be
        repeated.

        Returns how many guest bytes were copied.
        """

    @abstractmethod
    def pull(
        self,
        chain: Sequence[ImageRef],
        count: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Copy into `chain[0]` what it shows of the `count` images below it; durable on return.

        `chain` goes on down to the base. Afterwards `chain[0]` reads the same without them, but
        still names the first of them: see `set_parent`. No image below is larger than the one above
        it. Nobody else may have `chain[0]` open for writing. Stopping anywhere (kill included)
        leaves the disk as it was, and the work may be repeated.

        Returns how many guest bytes were copied.
        """
