"""The commands `sm image info`, `check` and `measure`: plain files, without an SR or any state."""

from __future__ import annotations

import os
import stat
from argparse import Namespace
from pathlib import Path
from typing import Any

from sm.cli.image_chain import Chain, Chosen, all_formats, choose, follow, opened
from sm.cli.output import Output
from sm.cli.sizes import parse_size, show_size
from sm.cowutil.base import ImageFormat, ImageRef
from sm.cowutil.chain import ChainReader
from sm.cowutil.errors import ImageError
from sm.cowutil.extents import Extents, Kind
from sm.cowutil.raw import SECTOR
from sm.cowutil.registry import Formats
from sm.errors import InvalidArgument, VdiSize

EXIT_DAMAGED = 3

DATA = (Kind.DATA, Kind.COMPRESSED)
"""What must be copied; all else of a disk reads as zero."""


def info(output: Output, options: Namespace) -> None:
    """All that an image's headers say, the space it takes, and its chain."""
    formats = all_formats()
    chosen = choose(formats, options)
    image = chosen.image
    images = formats.get(image.format)
    found = images.info(image.path)
    chain = follow(formats, image, alone=options.alone)
    parent = found.parent
    document: dict[str, Any] = {
        "path": str(image.path),
        **_format(chosen),
        "virtual_size": found.virtual_size,
        "block_size": found.block_size,
        "hidden": found.hidden,
        "parent": {"name": parent.name, "format": parent.format} if parent else None,
        "marks": list(found.marks),
        "allocated": images.allocated_size(image.path),
        **_space(image.path),
        **_chain(chain, alone=options.alone),
        "details": dict(images.details(image.path)),
    }
    output.result(document, _sheet(document))


def _format(chosen: Chosen) -> dict[str, Any]:
    probed = chosen.probed
    return {
        "format": chosen.image.format,
        "format_from": chosen.source,
        "probed": {"magic": probed.magic.decode("latin-1"), "offset": probed.offset}
        if probed
        else None,
    }


def _space(path: Path) -> dict[str, int]:
    status = path.stat()
    if stat.S_ISREG(status.st_mode):
        return {"file_size": status.st_size, "disk_usage": status.st_blocks * 512}
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.lseek(descriptor, 0, os.SEEK_END)
    finally:
        os.close(descriptor)
    return {"file_size": size, "disk_usage": size}


def _chain(chain: Chain, *, alone: bool) -> dict[str, Any]:
    members = [{"path": str(each.path), "format": each.format} for each in chain.members]
    return {
        "chain": None if alone else members,
        "chain_depth": None if alone or chain.problem else len(members),
        "chain_problem": str(chain.problem) if chain.problem else None,
    }


def _sheet(document: dict[str, Any]) -> str:
    """The document for people: a line each, sizes also in words."""
    lines = []
    for key, value in document.items():
        if key == "chain":
            lines += [f"chain: {each['path']} ({each['format']})" for each in value or ()]
        elif key == "details":
            lines += [f"{name}: {_words(item)}" for name, item in value.items()]
        elif key in ("virtual_size", "block_size", "allocated", "file_size", "disk_usage"):
            lines.append(f"{key}: {value} ({show_size(value)})")
        elif key == "parent" and value:
            lines.append(
                f"parent: {_words(value['name'])} ({value['format'] or 'format not said'})"
            )
        else:
            lines.append(f"{key}: {_words(value)}")
    return "\n".join(lines)


def _words(value: Any) -> str:
    """A value for a terminal, which names from an image must not steer."""
    if isinstance(value, dict):
        return " ".join(f"{key}={_words(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return "; ".join(_words(item) for item in value) or "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if value is None:
        return "-"
    return "".join(letter if letter.isprintable() else "?" for letter in str(value))


def check(output: Output, options: Namespace) -> int:
    """Examine all metadata of an image and its parents; leaked space alone is no damage."""
    formats = all_formats()
    chosen = choose(formats, options)
    chain = follow(formats, chosen.image, alone=options.alone)
    images = [_check(formats, member, leaf=not place) for place, member in enumerate(chain.members)]
    if chain.problem is not None and not images[-1]["corruptions"]:
        images[-1]["corruptions"].append(str(chain.problem))
    good = not any(image["corruptions"] for image in images)
    lines = []
    for image in images:
        state = "DAMAGED" if image["corruptions"] else "leaks" if image["leaks"] else "good"
        lines.append(f"{image['path']} ({image['format']}): {state}")
        lines += [f"    corruption: {text}" for text in image["corruptions"]]
        lines += [f"    leak: {text}" for text in image["leaks"]]
    document = {
        "path": str(chosen.image.path),
        **_format(chosen),
        "good": good,
        "leaks": any(image["leaks"] for image in images),
        "images": images,
    }
    output.result(document, "\n".join(lines))
    return 0 if good else EXIT_DAMAGED


def _check(formats: Formats, image: ImageRef, *, leaf: bool) -> dict[str, Any]:
    """The verdict on one image; a parent that is refused as a whole is a damaged chain."""
    row: dict[str, Any] = {"path": str(image.path), "format": image.format}
    try:
        report = formats.get(image.format).check(image.path)
    except ImageError as error:
        if leaf:
            raise
        return {**row, "corruptions": [str(error)], "leaks": []}
    return {**row, "corruptions": list(report.corruptions), "leaks": list(report.leaks)}


def measure(output: Output, options: Namespace) -> None:
    """How many bytes a new image will take, empty or with the data of an existing one."""
    formats = all_formats()
    target = formats.get(options.target)
    if (options.path is None) == (options.size is None):
        raise InvalidArgument("give either the path of an image or --size")
    if options.path is None:
        size = whole_sectors(parse_size(options.size))
        data = Extents.of(())
    else:
        image = choose(formats, options).image
        with opened(formats, follow(formats, image, alone=options.alone).whole()) as layers:
            disk = ChainReader(layers, whole_sectors(layers[0].virtual_size))
            size, data = disk.virtual_size, disk.extents(*DATA)
    require_size(target, size)
    found = target.measure(size, data)
    document = {
        "target": target.name,
        "virtual_size": size,
        "required": found.required,
        "fully_allocated": found.fully_allocated,
        "volume": target.full_size(size),
    }
    names = {
        "required": "required",
        "fully_allocated": "fully allocated",
        "volume": "volume for a disk in use",
    }
    lines = [f"{name}: {document[key]}" for key, name in names.items()]
    output.result(document, "\n".join(lines))


def whole_sectors(size: int) -> int:
    """`size` rounded up: a disk in an image ends with a sector."""
    return -(-size // SECTOR) * SECTOR


def require_size(target: ImageFormat, size: int) -> None:
    """Refuse a disk that no image of the format can hold."""
    if not 0 < size <= target.limits.maximum:
        raise VdiSize(f"{target.name} holds disks up to {target.limits.maximum} bytes, not {size}")
