"""Plain image files for the command line: which format one has, and which images lie below it.

A link in an image is untrusted. It is followed only to a file in the same folder, by its base name,
down to the chain length that the formats allow, and never twice to the same file.
"""

from __future__ import annotations

import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from sm import process
from sm.cowutil.base import CowUtil, ImageRef, Layer, ParentLink
from sm.cowutil.errors import ImageError, ImageUnsafe, ImageUnsupported
from sm.cowutil.probe import Probed, probe
from sm.cowutil.registry import Formats
from sm.errors import InvalidArgument


class BrokenChain(ImageError):
    """An image whose parents cannot all be found or told."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """The image that a command is about; `source` is where its format comes from."""

    image: ImageRef
    source: str
    probed: Probed | None = None


@dataclass(frozen=True, slots=True)
class Chain:
    """Images, uppermost first, as far down as they could be found; `problem`: why no further."""

    members: tuple[ImageRef, ...]
    problem: ImageError | None = None

    def whole(self) -> tuple[ImageRef, ...]:
        """All members; raises the problem where there is one."""
        if self.problem is not None:
            raise self.problem
        return self.members


def all_formats() -> Formats:
    """The registered formats, with the real tools."""
    return Formats(process.run)


def choose(formats: Formats, options: Namespace) -> Chosen:
    """The image at `options.path`, its format by `--format`, `--probe` or the suffix of its name.

    What a probe found is said on standard error too: the next command may want to name it.
    """
    path: Path = options.path
    if options.probe:
        if options.format:
            raise InvalidArgument("--format and --probe exclude each other")
        found = probe(path, (formats.get(name) for name in formats.names))
        sys.stderr.write(f"sm: probed {path}: {found}\n")
        return Chosen(ImageRef(path, found.format), "probe", found)
    if options.format:
        return Chosen(ImageRef(path, options.format), "option")
    name = by_suffix(formats, path)
    if name is None:
        raise InvalidArgument(
            f"the name of {path} does not end in {endings(formats)}; say --format, or --probe to"
            " let its content decide"
        )
    return Chosen(ImageRef(path, name), "suffix")


def by_suffix(formats: Formats, path: Path) -> str | None:
    """The format that the file name ends in, if any."""
    name = path.suffix.removeprefix(".").lower()
    return name if name in formats.names else None


def endings(formats: Formats) -> str:
    """The suffixes that tell a format, for a message."""
    return " or ".join(f".{name}" for name in formats.names)


def follow(formats: Formats, image: ImageRef, *, alone: bool = False) -> Chain:
    """The chain from `image` down; `alone` leaves it at the one image.

    OSError only where a file is there and cannot be read.
    """
    members = [image]
    if alone:
        return Chain((image,))
    try:
        seen = {_identity(image.path)}
        while (link := formats.get(members[-1].format).info(members[-1].path).parent) is not None:
            parent = _parent(formats, members[-1], link)
            members.append(parent)
            if _identity(parent.path) in seen:
                members.pop()
                raise BrokenChain(image.path, f"leads back to {parent.path.name}, in a circle")
            seen.add(_identity(parent.path))
            if len(members) > CowUtil.max_chain_length:
                raise BrokenChain(
                    image.path, f"has a chain of more than {CowUtil.max_chain_length} images"
                )
    except ImageError as problem:
        return Chain(tuple(members), problem)
    return Chain(tuple(members))


@contextmanager
def opened(formats: Formats, members: Sequence[ImageRef]) -> Iterator[list[Layer]]:
    """The layers of a chain, uppermost first, open for reading."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(formats.get(member.format).open_layer(member.path))
            for member in members
        ]


def _parent(formats: Formats, child: ImageRef, link: ParentLink) -> ImageRef:
    folder = child.path.parent
    path = folder / link.name
    if link.name in ("", ".", "..") or path.name != link.name:
        raise ImageUnsafe(child.path, f"names a parent outside its own folder: {link.name!r}")
    if not path.exists():
        raise BrokenChain(child.path, f"its parent {link.name!r} is not in its folder")
    if path.resolve().parent != folder.resolve():
        raise ImageUnsafe(child.path, f"its parent {link.name!r} is a link out of its folder")
    name = link.format or by_suffix(formats, path)
    if name is None:
        raise BrokenChain(
            child.path,
            f"does not say which format its parent {link.name!r} has, and no suffix tells;"
            f" give that file a name that ends in {endings(formats)}",
        )
    images = formats.get(child.format)
    allowed = images.parent_formats if isinstance(images, CowUtil) else frozenset()
    if name not in allowed:
        advice = f"it can be {' or '.join(sorted(allowed))}"
        raise ImageUnsupported(child.path, f"a parent of format {name!r}", advice)
    return ImageRef(path, name)


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino
