"""`VhdUtil`: the VHD format as the storage manager uses it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sm.cowutil.base import (
    AT_ONCE,
    CheckReport,
    CowUtil,
    ImageInfo,
    ImageRef,
    Layer,
    Magic,
    ParentLink,
    Plain,
    Progress,
    SizeLimits,
    Steps,
    ToolRunner,
    no_progress,
)
from sm.cowutil.errors import ImageUnsafe, ImageUnsupported
from sm.cowutil.stream import Measure, Piece, Read
from sm.cowutil.vhd import layout
from sm.cowutil.vhd.block_file import Access, BlockFile, Opener, open_file, read, sync_name
from sm.cowutil.vhd.change import hide, replace_header
from sm.cowutil.vhd.create import disk_size, write_child, write_dynamic
from sm.cowutil.vhd.footer import COOKIE, FOOTER_SIZE, MAX_VIRTUAL_SIZE, Kind
from sm.cowutil.vhd.header import BLOCK_SIZE
from sm.cowutil.vhd.headers import Headers, load_headers
from sm.cowutil.vhd.locator import (
    has_raw_parent,
    parent_name,
    slot_size,
    spells_one_name,
)
from sm.cowutil.vhd.parent import (
    ParentIdentity,
    has_slot,
    identify_parent,
    relink,
    relink_at,
    without_parent,
)

if TYPE_CHECKING:
    from sm.cowutil.extents import Extents

# Whatever reads tables imports numpy, 100 ms that reading or changing headers must not cost;
# therefore the imports inside methods here (PLC0415).


class VhdUtil(CowUtil):
    """Dynamic and differencing VHDs, read and written natively; fixed ones read only.

    Sizes that are no multiple of the granularity are rounded up, as every other tool for the format
    does. What is written keeps to the specification and to blktap's rules.
    """

    name = "vhd"
    limits = SizeLimits(BLOCK_SIZE, MAX_VIRTUAL_SIZE, BLOCK_SIZE)
    magics = (Magic(0, COOKIE), Magic(-FOOTER_SIZE, COOKIE), Magic(1 - FOOTER_SIZE, COOKIE))
    parent_formats = frozenset({"vhd", "raw"})
    merged_beside = True

    def __init__(
        self,
        runner: ToolRunner,
        open_file: Opener = open_file,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """`runner` is what every format is given; this one starts no child process."""
        self._open_file = open_file
        self._clock = clock

    def info(self, path: Path) -> ImageInfo:
        """Read the footers, the header, and the locators of the parent."""
        with self._opened(path, Access.READ) as file:
            headers = load_headers(file)
            return ImageInfo(
                path,
                self.name,
                headers.footer.current_size,
                headers.sparse.block_size if headers.sparse else headers.footer.current_size,
                headers.footer.hidden,
                _parent(file, headers),
                identity=headers.footer.unique_id,
            )

    def details(self, path: Path) -> Mapping[str, Plain]:
        """Kind of disk, creator, and which structures there are; from the headers alone."""
        from sm.cowutil.vhd.details import details  # noqa: PLC0415 - seldom asked for

        with self._opened(path, Access.READ) as file:
            return details(file)

    def allocated_extents(self, path: Path) -> Extents:
        """Read the table and the sector bitmaps: exact to the sector."""
        with self.open_layer(path) as layer:
            return layer.map().extents()

    def allocated_size(self, path: Path) -> int:
        """Count allocated blocks from the table alone: whole blocks, never too few."""
        from sm.cowutil.vhd.layer import VhdLayer  # noqa: PLC0415

        with VhdLayer(self._open_file(path, Access.READ)) as layer:
            return layer.allocated_size()

    def open_layer(self, path: Path) -> Layer:
        """Open for reading guest data; the tables are read when first needed."""
        from sm.cowutil.vhd.layer import VhdLayer  # noqa: PLC0415

        return VhdLayer(self._open_file(path, Access.READ))

    def full_size(self, virtual_size: int) -> int:
        """The bytes that a volume needs for the fully written disk; see `layout.full_size`."""
        return layout.full_size(virtual_size)

    def empty_size(self, virtual_size: int) -> int:
        """Tables with room for larger ones, and both footers."""
        return layout.empty_size(virtual_size)

    def sparse_size(self, virtual_size: int) -> int:
        """Tables and both footers."""
        return layout.sparse_size(virtual_size)

    def used_size(self, path: Path) -> int:
        """The end of the last block or table, with the footer behind it."""
        from sm.cowutil.vhd.ends import used_size  # noqa: PLC0415 - as in `fit`

        with self._opened(path, Access.READ) as file:
            return used_size(file)

    def fit(self, path: Path, size: int, *, added_from: int | None = None) -> None:
        """Put the footer at the end of `size` bytes; see `ends` for crashes."""
        del added_from  # what no block lies on is not looked at
        from sm.cowutil.vhd.ends import fit  # noqa: PLC0415 - tables are read with numpy

        with self._opened(path, Access.WRITE) as file:
            fit(file, size)

    def measure(self, virtual_size: int, data: Extents) -> Measure:
        """The length of the streamed image; the disk is rounded up to whole blocks."""
        from sm.cowutil.extents import Extents  # noqa: PLC0415
        from sm.cowutil.vhd.stream import plan  # noqa: PLC0415

        full = Extents.of([(0, virtual_size)])
        return Measure(plan(virtual_size, data).total, plan(virtual_size, full).total)

    def stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        """A dynamic disk of whole blocks of 2 MiB; see `stream`."""
        from sm.cowutil.vhd.stream import plan, stream  # noqa: PLC0415

        return stream(plan(virtual_size, data), read, self._clock())

    def create(self, path: Path, virtual_size: int) -> None:
        """Make an empty dynamic disk; ENOSPC where a volume cannot hold its tables."""
        size = disk_size(path, virtual_size)
        with self._opened(path, Access.CREATE) as file:
            write_dynamic(file, size, self._clock())
            sync_name(file)

    def resize(self, path: Path, virtual_size: int) -> None:
        """Grow the disk; see `growth` for what a crash may leave."""
        from sm.cowutil.vhd.growth import grow  # noqa: PLC0415
        from sm.cowutil.vhd.writer import ImageWriter  # noqa: PLC0415

        with self._opened(path, Access.WRITE) as file:
            grow(ImageWriter(file), virtual_size)

    def check(self, path: Path) -> CheckReport:
        """Examine footers, header, link, tables, batmap; see `check` for what counts as a leak."""
        from sm.cowutil.vhd.check import examine  # noqa: PLC0415

        with self._opened(path, Access.READ) as file:
            return examine(file, self._clock())

    def repair(self, path: Path) -> CheckReport:
        """Mend what `repair` can, then check."""
        from sm.cowutil.vhd.check import examine  # noqa: PLC0415
        from sm.cowutil.vhd.repair import mend  # noqa: PLC0415

        with self._opened(path, Access.WRITE) as file:
            mend(file)
            return examine(file, self._clock())

    def snapshot(self, path: Path, parent: ImageRef, virtual_size: int) -> None:
        """Make an empty child of a VHD or raw parent."""
        identity = self._identify(path, parent)
        size = disk_size(path, virtual_size, identity.virtual_size)
        with self._opened(path, Access.CREATE) as file:
            write_child(file, size, identity, self._clock())
            sync_name(file)

    def set_parent(self, path: Path, parent: ImageRef | None) -> None:
        """Replace the link of a differencing image; see `parent` for crashes."""
        if parent is None:
            with self._opened(path, Access.WRITE) as file:
                self._unlink(file)
            return
        identity = self._identify(path, parent)
        with self._opened(path, Access.WRITE) as file:
            headers = load_headers(file)
            if headers.footer.kind is not Kind.DIFFERENCING:
                raise ImageUnsupported(path, "no parent", "only a differencing image has one")
            if not relink(file, headers, identity, self._clock()):
                self._relink_in_new_room(file, identity)

    def set_hidden(self, path: Path, hidden: bool) -> None:
        """Write the mark to the copy of the footer, then to the footer at the end."""
        with self._opened(path, Access.WRITE) as file:
            if not hide(file, load_headers(file), hidden):
                from sm.cowutil.vhd.writer import ImageWriter  # noqa: PLC0415

                ImageWriter(file).set_footer(hidden=hidden)

    def kill_data(self, path: Path) -> None:
        """Drop all guest data that the image holds itself; see `kill` for crashes."""
        from sm.cowutil.vhd.kill import kill_data  # noqa: PLC0415
        from sm.cowutil.vhd.writer import ImageWriter  # noqa: PLC0415

        with self._opened(path, Access.WRITE) as file:
            kill_data(ImageWriter(file))

    def coalesce(
        self,
        chain: Sequence[ImageRef],
        into: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Merge; see `coalesce` and `transfer` for how and in what order."""
        from sm.cowutil.vhd.coalesce import merge  # noqa: PLC0415

        return merge(chain, into, progress, steps, self._open_file)

    def pull(
        self,
        chain: Sequence[ImageRef],
        count: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Copy upwards; VHD images only."""
        from sm.cowutil.vhd.coalesce import pull  # noqa: PLC0415

        return pull(chain, count, progress, steps, self._open_file)

    def moves_to_grow(self, path: Path, virtual_size: int) -> bool:
        """Whether the table needs another place, and there is none in front of all blocks."""
        from sm.cowutil.vhd.growth import grows_in_place  # noqa: PLC0415
        from sm.cowutil.vhd.tables import load_tables  # noqa: PLC0415

        with self._opened(path, Access.READ) as file:
            headers = load_headers(file)
            if headers.sparse is None:
                return False
            return not grows_in_place(file, headers, load_tables(file, headers), virtual_size)

    def moves_to_relink(self, path: Path, parent: Path) -> bool:
        """Whether there is no place in front of all blocks for new locators."""
        with self._opened(path, Access.READ) as file:
            headers = load_headers(file)
            if headers.footer.kind is not Kind.DIFFERENCING or has_slot(file, headers, parent.name):
                return False
            from sm.cowutil.vhd.growth import free_place  # noqa: PLC0415
            from sm.cowutil.vhd.tables import load_tables  # noqa: PLC0415

            size = slot_size(path, parent.name)
            return free_place(file, headers, load_tables(file, headers), size) is None

    def names_one_parent(self, path: Path) -> bool:
        """Whether all locators of a differencing image name the one parent that `info` tells.

        Otherwise other programs may open another file; `set_parent` leaves none that does not.
        """
        with self._opened(path, Access.READ) as file:
            header = load_headers(file).header

            def fetch(offset: int, length: int) -> bytes:
                return read(file, offset, length)

            return spells_one_name(path, header, fetch)

    def _unlink(self, file: BlockFile) -> None:
        """Make a differencing image a base; no change if it is one.

        Its kind in the footers goes first: what the header still names then counts for nothing.
        """
        from sm.cowutil.vhd.writer import ImageWriter  # noqa: PLC0415

        writer = ImageWriter(file)
        writer.set_footer(kind=Kind.DYNAMIC)
        replace_header(file, writer.headers, without_parent(writer.headers.header))
        writer.reload()
        writer.seal()

    def _relink_in_new_room(self, file: BlockFile, identity: ParentIdentity) -> None:
        from sm.cowutil.vhd.growth import make_room  # noqa: PLC0415
        from sm.cowutil.vhd.writer import ImageWriter  # noqa: PLC0415

        writer = ImageWriter(file)
        slot = make_room(writer, slot_size(file.path, identity.name))
        relink_at(file, writer.headers, identity, slot, self._clock())
        writer.reload()
        writer.seal()

    def _identify(self, path: Path, parent: ImageRef) -> ParentIdentity:
        if parent.path.parent != path.parent:
            raise ImageUnsafe(path, f"its parent {parent.path} would be in another folder")
        return identify_parent(parent, self._open_file)

    @contextmanager
    def _opened(self, path: Path, access: Access) -> Iterator[BlockFile]:
        file = self._open_file(path, access)
        try:
            yield file
        finally:
            file.close()


def _parent(file: BlockFile, headers: Headers) -> ParentLink | None:
    if headers.footer.kind is not Kind.DIFFERENCING:
        return None
    header = headers.header

    def fetch(offset: int, length: int) -> bytes:
        return read(file, offset, length)

    name = parent_name(file.path, header, fetch)
    if has_raw_parent(header):
        return ParentLink(name, "raw")
    return ParentLink(name, "vhd", header.parent_id)
