"""QCOW2 as the storage manager sees it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from sm.cowutil.base import (
    AT_ONCE,
    CheckReport,
    CowUtil,
    ImageInfo,
    ImageRef,
    Magic,
    Plain,
    Progress,
    SizeLimits,
    Steps,
    ToolRunner,
    no_progress,
)
from sm.cowutil.errors import ImageUnsafe, ImageUnsupported, SizeOutOfRange
from sm.cowutil.qcow2 import layout, sizing, tool
from sm.cowutil.qcow2.backing import plain_name
from sm.cowutil.qcow2.header import Header, read_header
from sm.cowutil.qcow2.mark import write_mark
from sm.cowutil.qcow2.source import Source
from sm.cowutil.raw import SECTOR, RawFormat, sync_file
from sm.cowutil.stream import Measure, Piece, Read

if TYPE_CHECKING:
    from sm.cowutil.extents import Extents
    from sm.cowutil.qcow2.layer import Qcow2Layer


class Qcow2Util(CowUtil):
    """Headers and tables are read natively; qemu-img makes, grows, rebases, merges and repairs."""

    name = "qcow2"
    limits = SizeLimits(minimum=64 << 10, maximum=16 << 40, granularity=64 << 10)
    magics: ClassVar[tuple[Magic, ...]] = (Magic(0, layout.MAGIC),)
    parent_formats: ClassVar[frozenset[str]] = frozenset({"qcow2", "raw"})
    merged_beside: ClassVar[bool] = False  # an open image has its tables cached, to be written back

    copies_by_tool: ClassVar[bool] = True

    def __init__(self, runner: ToolRunner) -> None:
        self._runner = runner
        self._raw = RawFormat(runner)

    def info(self, path: Path) -> ImageInfo:
        """Read the header; errors as for `read_header`."""
        header = self._header(path)
        return ImageInfo(
            path=path,
            format=self.name,
            virtual_size=header.size,
            block_size=header.cluster_size,
            hidden=header.hidden,
            parent=header.parent,
            marks=header.marks,
        )

    def details(self, path: Path) -> Mapping[str, Plain]:
        """Version, features, internal snapshots, bitmaps, and the space that the refcounts tell."""
        from sm.cowutil.qcow2.details import details  # noqa: PLC0415 - numpy is slow to import

        return details(path)

    def allocated_extents(self, path: Path) -> Extents:
        """Data, zero and compressed clusters (or subclusters), from the L2 tables."""
        with self.open_layer(path) as layer:
            return layer.held()

    def allocated_size(self, path: Path) -> int:
        """Guest bytes held, in clusters or subclusters; a last partial one counts to its end."""
        with self.open_layer(path) as layer:
            return layer.held_size()

    def open_layer(self, path: Path) -> Qcow2Layer:
        """Open for reading; the header and the L1 table are checked at once."""
        from sm.cowutil.qcow2.layer import Qcow2Layer  # noqa: PLC0415 - numpy is slow to import

        return Qcow2Layer(path)

    def full_size(self, virtual_size: int) -> int:
        """Size of a fully written image with 64 KiB clusters."""
        return sizing.full_size(virtual_size)

    def empty_size(self, virtual_size: int) -> int:
        """Header, refcounts and L1 table, as `create` lays them out."""
        return sizing.empty_size(virtual_size)

    def measure(self, virtual_size: int, data: Extents) -> Measure:
        """The length of the streamed image, in clusters of 64 KiB."""
        from sm.cowutil.extents import Extents  # noqa: PLC0415 - numpy is slow to import
        from sm.cowutil.qcow2.stream import plan  # noqa: PLC0415 - as above

        self._require_sectors(virtual_size)
        full = plan(virtual_size, Extents.of([(0, virtual_size)]), sizing.CLUSTER_BITS)
        return Measure(plan(virtual_size, data, sizing.CLUSTER_BITS).total, full.total)

    def stream(self, virtual_size: int, data: Extents, read: Read) -> Iterator[Piece]:
        """A version 3 image with clusters of 64 KiB; see `stream` for its layout."""
        from sm.cowutil.qcow2.stream import plan, stream  # noqa: PLC0415 - numpy is slow to import

        self._require_sectors(virtual_size)
        return stream(plan(virtual_size, data, sizing.CLUSTER_BITS), read)

    def create(self, path: Path, virtual_size: int) -> None:
        """Make an empty version 3 image with 64 KiB clusters and the hidden mark cleared.

        A crash leaves nothing at `path`, or the whole image; beside it a file named like `path`
        with a dot before and `.new` behind may be left, which the next attempt removes. A volume
        has no such step: it may be left with any part of the image, and is to be made again. A
        file that exists is FileExistsError.
        """
        self._require_size(path, virtual_size, self.limits.minimum)
        self._make(path, virtual_size, None)

    def snapshot(self, path: Path, parent: ImageRef, virtual_size: int) -> None:
        """Make an empty child, as `create`; the parent's header is read, nothing of it changed.

        A size below the parent's is `SizeOutOfRange`.
        """
        self._require_parent(path, parent)
        smallest = max(self._virtual_size(parent), self.limits.minimum)
        self._require_size(path, virtual_size, smallest)
        self._make(path, virtual_size, parent)

    def resize(self, path: Path, virtual_size: int) -> None:
        """Grow the disk. A crash leaves the old or the new size, and at worst leaked clusters.

        The parent is not opened: the new part reads as zero because a parent is never larger than
        its child (`snapshot` and `set_parent` see to it).
        """
        header = self._header(path)
        self._require_size(path, virtual_size, header.size)
        argv = tool.resize_argv(tool.alone(path), virtual_size)
        tool.run_tool(self._runner, path, argv, timeout=tool.CHECK_TIMEOUT)
        sync_file(path)

    def set_parent(self, path: Path, parent: ImageRef | None) -> None:
        """Write the parent's name and format in one header update: a crash leaves old or new.

        A parent larger than the image is `SizeOutOfRange`: see `resize`.
        """
        header = self._header(path)
        if parent is not None:
            self._require_parent(path, parent)
            size = self._virtual_size(parent)
            if size > header.size:
                raise SizeOutOfRange(parent.path, size, 0, header.size)
        argv = tool.rebase_argv(path, parent)
        tool.run_tool(self._runner, path, argv, timeout=tool.HEADER_TIMEOUT, inspect=True)
        sync_file(path)

    def set_hidden(self, path: Path, hidden: bool) -> None:
        """Write the mark in place; see `write_mark` for what a crash may leave."""
        write_mark(path, hidden)

    def coalesce(
        self,
        chain: Sequence[ImageRef],
        into: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Merge with qemu-img or qemu-nbd; see `merge` for errors and what a crash may leave."""
        from sm.cowutil.qcow2.merge import merge  # noqa: PLC0415 - numpy is slow to import

        return merge(self._runner, chain, into, progress, steps)

    def pull(
        self,
        chain: Sequence[ImageRef],
        count: int,
        progress: Progress = no_progress,
        steps: Steps = AT_ONCE,
    ) -> int:
        """Copy upwards through qemu-nbd; QCOW2 images only."""
        from sm.cowutil.qcow2.stepwise import pull  # noqa: PLC0415 - numpy is slow to import

        return pull(self._runner, chain, count, progress, steps)

    def check(self, path: Path) -> CheckReport:
        """Compare all refcounts with what the tables use; verdict as of `qemu-img check`."""
        from sm.cowutil.qcow2.check import check_image  # noqa: PLC0415 - numpy is slow to import

        return check_image(path).report()

    def repair(self, path: Path) -> CheckReport:
        """Mend refcounts, flags and leaks, never table entries; see `repair_image`."""
        from sm.cowutil.qcow2.repair import repair_image  # noqa: PLC0415 - as in `check`

        return repair_image(self._runner, path)

    def used_size(self, path: Path) -> int:
        """Up to where the file is in use, in bytes, from its refcounts: a volume may be cut there.

        Right for an image whose check found no corruption.
        """
        from sm.cowutil.qcow2.usage import read_usage  # noqa: PLC0415 - numpy is slow to import

        return read_usage(path).used_size

    def _header(self, path: Path) -> Header:
        with Source(path) as source:
            return read_header(source)

    def _virtual_size(self, image: ImageRef) -> int:
        if image.format == self._raw.name:
            return self._raw.info(image.path).virtual_size
        return self._header(image.path).size

    def _require_sectors(self, size: int) -> None:
        """The size of a streamed disk; not `limits`, since it may come from anywhere."""
        if size % SECTOR or not 0 < size <= self.limits.maximum:
            raise ValueError(f"no QCOW2 image of ours holds a disk of {size} bytes")

    def _require_size(self, path: Path, size: int, minimum: int) -> None:
        if not minimum <= size <= self.limits.maximum or size % self.limits.granularity:
            raise SizeOutOfRange(path, size, minimum, self.limits.maximum)

    def _require_parent(self, path: Path, parent: ImageRef) -> None:
        """Refuse a parent that we would not accept on reading the image again."""
        if parent.format not in self.parent_formats:
            raise ImageUnsupported(path, f"a parent of format {parent.format}", "use qcow2 or raw")
        if parent.path.absolute().parent != path.absolute().parent:
            raise ImageUnsafe(path, f"and its parent {parent.path} are not in one folder")
        plain_name(path, os.fsencode(parent.path.name))

    def _make(self, path: Path, virtual_size: int, parent: ImageRef | None) -> None:
        """Make an image: a file under another name first, because qemu-img works in steps.

        Killed between two of them it leaves a disk of size zero, or one without its parent.
        """
        if path.is_block_device():
            self._fill(path, virtual_size, parent)
            return
        if path.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(path))
        staged = path.with_name(f".{path.name}.new")
        staged.unlink(missing_ok=True)
        try:
            self._fill(staged, virtual_size, parent)
            staged.rename(path)
        except BaseException:
            staged.unlink(missing_ok=True)
            raise
        sync_file(path.parent)

    def _fill(self, path: Path, virtual_size: int, parent: ImageRef | None) -> None:
        argv = tool.create_argv(path, virtual_size, parent)
        tool.run_tool(self._runner, path, argv, timeout=tool.HEADER_TIMEOUT, inspect=True)
        write_mark(path, hidden=False)
        sync_file(path)
