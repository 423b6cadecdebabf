"""Merging QCOW2 images in steps that can be taken up again, and copying upwards.

What the images hold we read ourselves; what goes into the target goes through qemu-nbd. States that
a crash may leave: of the target as of `merge`; of an image that gives back what was copied, see
`release`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from sm.cowutil import transfer
from sm.cowutil.base import ImageRef, Progress, Steps, ToolRunner
from sm.cowutil.errors import ImageUnsupported
from sm.cowutil.extents import Extents
from sm.cowutil.qcow2.layer import Qcow2Layer
from sm.cowutil.qcow2.nbd import opened
from sm.cowutil.qcow2.release import alone, release
from sm.cowutil.transfer import Work


def merge_down(
    runner: ToolRunner, chain: Sequence[ImageRef], into: int, progress: Progress, steps: Steps
) -> int:
    """Copy what `chain[:into]` hold into `chain[into]`, which is at least as large."""
    with ExitStack() as stack:
        layers = [stack.enter_context(Qcow2Layer(ref.path)) for ref in chain[:into]]
        target = stack.enter_context(opened(runner, chain[into:]))
        # The lowest first: what is above it hides it, until the target alone has everything.
        givers = _givers(stack, reversed(chain[:into]), steps)
        work = Work(
            chain[into].path,
            layers,
            target,
            layers[0].virtual_size,
            sum(layer.held_size() for layer in layers),
            proof=partial(_held, chain[into]),
            release=partial(_release, givers),
        )
        return transfer.copy(work, progress, steps)


def pull(
    runner: ToolRunner, chain: Sequence[ImageRef], count: int, progress: Progress, steps: Steps
) -> int:
    """As `CowUtil.pull`."""
    if not 0 < count < len(chain):
        raise ValueError(f"a chain of {len(chain)} has no {count} images below the first")
    lower = chain[1 : count + 1]
    for ref in lower:
        if ref.format != "qcow2":
            raise ImageUnsupported(ref.path, f"{ref.format} below a QCOW2", "merge into it instead")
    with ExitStack() as stack:
        layers = [stack.enter_context(Qcow2Layer(ref.path)) for ref in chain[: count + 1]]
        for above, below, ref in zip(layers, layers[1:], lower, strict=False):
            if below.virtual_size > above.virtual_size:
                advice = "resize the child first"
                raise ImageUnsupported(ref.path, "a size above its child's", advice)
        # Looked at before: then qemu has them open itself, and through what is above nobody can.
        with ExitStack() as before:
            givers = _givers(before, lower, steps)
        target = stack.enter_context(opened(runner, chain))
        work = Work(
            chain[0].path,
            layers,
            target,
            layers[0].virtual_size,
            sum(layer.held_size() for layer in layers[1:]),
            proof=partial(_held, chain[0]),
            release=partial(_release, givers),
            covered=1,
        )
        return transfer.copy(work, progress, steps)


def _givers(stack: ExitStack, images: Iterable[ImageRef], steps: Steps) -> list[Path]:
    """The images that may let go of what was copied: those of `images`, if nobody reads them."""
    paths = [image.path for image in images if steps.give_back]
    return paths if stack.enter_context(alone(paths)) else []


def _held(ref: ImageRef, start: int, end: int) -> Extents:
    """What an image holds between two bytes of the disk, read afresh."""
    if ref.format == "raw":
        return Extents.of([(start, end)])
    with Qcow2Layer(ref.path) as layer:
        return layer.held_between(start, min(end, layer.virtual_size))


def _release(paths: Sequence[Path], start: int, end: int) -> None:
    for path in paths:
        release(path, start, end)
