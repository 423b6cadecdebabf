"""Merging images of a chain into one of their ancestors."""

from __future__ import annotations

from collections.abc import Sequence

from sm.cowutil.base import ImageRef, Progress, Steps, ToolRunner
from sm.cowutil.errors import ImageCorrupt, ImageError, ImageUnsupported
from sm.cowutil.extents import Extents
from sm.cowutil.qcow2 import tool
from sm.cowutil.qcow2.header import read_header
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.source import Source
from sm.cowutil.qcow2.stepwise import merge_down
from sm.cowutil.raw import RawLayer, sync_file


def merge(
    runner: ToolRunner, chain: Sequence[ImageRef], into: int, progress: Progress, steps: Steps
) -> int:
    """Merge `chain[:into]` into `chain[into]`; gives bytes copied.

    With one `qemu-img commit`, unless `steps` asks for more than that; see `stepwise`.

    States that a crash or `Cancelled` may leave: the target as it was, grown to the size of the
    uppermost image, partly merged, or wholly merged; with leaked clusters, never with worse. The
    merged images are never written, and they hide from everybody above what the target holds.
    So the merge may simply be repeated, after `repair` of the target if the leaks matter.

    Raises `ImageUnsupported` for a merged image that is smaller than the one below it: it hides
    what its parents hold beyond its end, and after the merge nothing would.
    """
    if not 0 < into < len(chain):
        raise ValueError(f"no image {into} to merge into in a chain of {len(chain)}")
    sizes = [_usable_size(member, position < into) for position, member in enumerate(chain)]
    for member, size, below in zip(chain[:into], sizes, sizes[1:], strict=False):
        if size < below:
            advice = f"it has {size} bytes, its parent {below}; grow it first"
            raise ImageUnsupported(member.path, "a disk smaller than its parent's", advice)
    held = Extents.any_of(_held_by(member) for member in chain[:into])
    target = chain[into]
    if sizes[into] < sizes[0]:
        described = tool.graph(chain[into:])
        argv = tool.resize_argv(described, sizes[0])
        tool.run_tool(runner, target.path, argv, timeout=tool.CHECK_TIMEOUT)
        sync_file(target.path)
    copied = held.total
    if steps.wanted:
        copied = merge_down(runner, chain, into, progress, steps)
    elif copied:
        argv = tool.commit_argv(chain, into, steps.bytes_per_second)
        _commit(runner, target, argv, copied, progress)
        sync_file(target.path)
    _verify(target, held)
    progress(copied, copied)
    return copied


def _held_by(member: ImageRef) -> Extents:
    """Guest bytes that a QCOW2 image holds itself."""
    with Qcow2Layer(member.path) as layer:
        return layer.held()


def _usable_size(member: ImageRef, merged: bool) -> int:
    """The virtual size of a member, once it is fit to take part; `merged`: its data is to move."""
    if member.format not in ("qcow2", "raw") or (merged and member.format == "raw"):
        advice = "only QCOW2 images can be merged, over QCOW2 or raw ones"
        raise ImageUnsupported(member.path, f"the format {member.format}", advice)
    if member.format == "raw":
        with RawLayer(member.path) as layer:
            return layer.virtual_size
    with Source(member.path) as source:
        header = read_header(source)
    if header.marks:
        problem = f"is marked {' and '.join(header.marks)}; repair it before a merge"
        raise ImageCorrupt(member.path, "incompatible features", 72, problem)
    return header.size


def _commit(
    runner: ToolRunner, target: ImageRef, argv: Sequence[str], total: int, progress: Progress
) -> None:
    done = 0.0

    def watch(text: str) -> None:
        nonlocal done
        found = tool.percent(text)
        done = done if found is None else max(done, found)
        progress(int(done * total), total)

    tool.run_tool(runner, target.path, argv, timeout=tool.MERGE_TIMEOUT, watch=watch)


def _verify(target: ImageRef, held: Extents) -> None:
    """Prove that the target now holds every byte that the merged images held."""
    if target.format == "qcow2":
        missing = held.minus(_held_by(target))
    else:
        with RawLayer(target.path) as raw:
            missing = held.minus(Extents.of([(0, raw.virtual_size)]))
    if len(missing):
        first = next(iter(missing))
        raise ImageError(
            target.path, f"lacks merged bytes {first[0]} to {first[1]}; repeat the merge"
        )
