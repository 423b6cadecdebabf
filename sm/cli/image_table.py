"""The commands `sm image` as a table; what carries them out is imported when one is used.

They work on plain files. They need no root, no records and no right beyond reading the files, and
leave none of these behind; and the libraries that scan tables stay away from all other commands.
"""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from sm.cli.output import Output
from sm.cowutil.registry import FORMATS

FileRun = Callable[[Output, Namespace], int | None]

Option = tuple[tuple[str, ...], dict[str, Any]]
"""Names and keywords, as `argparse` takes them."""


@dataclass(frozen=True, slots=True)
class FileCommand:
    """One command on plain files: its words, where its function is, and its arguments."""

    group: str
    name: str
    place: str
    about: str
    arguments: tuple[Option, ...]

    @property
    def description(self) -> str:
        """What it does, whole."""
        return self.about

    def load(self) -> FileRun:
        """The function, as `module:name` says."""
        module, _, attribute = self.place.partition(":")
        run: FileRun = getattr(import_module(module), attribute)
        return run


def _option(*names: str, **keywords: Any) -> Option:
    return names, keywords


_PATH = _option("path", type=Path, help="the image file or device")
_FORMAT = _option(
    "--format", choices=FORMATS, help="its format, where the suffix of its name does not tell"
)
_PROBE = _option("--probe", action="store_true", help="find out the format from its content")
_ALONE = _option("--alone", action="store_true", help="this image only, not its parents")
_FORCE = _option("--force", action="store_true", help="replace a file that exists")
_IMAGE = (_PATH, _FORMAT, _PROBE, _ALONE)

IMAGE_COMMANDS: Sequence[FileCommand] = (
    FileCommand(
        "image",
        "info",
        "sm.cli.image_commands:info",
        "All that an image's headers say, the space it takes, and its chain.",
        _IMAGE,
    ),
    FileCommand(
        "image",
        "map",
        "sm.cli.image_map:map_",
        "Where each byte of a disk is: image of the chain, kind, and place in its file.",
        (
            *_IMAGE,
            _option("--intervals", action="store_true", help="runs of blocks that hold data"),
            _option("--bitmap", type=Path, metavar="FILE", help="write a bit for each block"),
            _option("--granularity", metavar="SIZE", help="bytes of a block, a power of two"),
            _FORCE,
        ),
    ),
    FileCommand(
        "image",
        "check",
        "sm.cli.image_commands:check",
        "Examine all metadata of an image and its parents.",
        _IMAGE,
    ),
    FileCommand(
        "image",
        "measure",
        "sm.cli.image_commands:measure",
        "How many bytes a new image will take.",
        (
            _option("path", nargs="?", type=Path, help="the image whose data it will hold"),
            *_IMAGE[1:],
            _option("--size", help="an empty disk of this size instead, for example 10GiB"),
            _option("--target", required=True, choices=FORMATS, help="the format of the new image"),
        ),
    ),
    FileCommand(
        "image",
        "cat",
        "sm.cli.image_cat:cat",
        "Write a disk to standard output, or into a new image without parents.",
        (
            *_IMAGE,
            _option("--offset", metavar="SIZE", help="where to begin"),
            _option("--length", metavar="SIZE", help="how many bytes"),
            _option("--output", type=Path, metavar="FILE", help="the new image"),
            _option("--to", choices=FORMATS, help="its format"),
            _FORCE,
        ),
    ),
)
