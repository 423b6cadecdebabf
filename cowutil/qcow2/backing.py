"""Which backing names are accepted: the plain name of a file in the image's own folder.

qemu would follow any path, URL or `json:` description that it finds in an image. An image is
untrusted, so everything that could lead out of its folder is refused when it is read.
"""

from __future__ import annotations

from pathlib import Path

from sm.cowutil.errors import ImageUnsafe

DEVICES = b"/dev/"


def plain_name(path: Path, raw: bytes) -> str:
    """The backing name `raw` of image `path` as a base name; a leading `./` is dropped.

    Raises `ImageUnsafe` naming it when it is anything else.
    """
    try:
        name = raw.decode("utf-8").removeprefix("./")
    except UnicodeDecodeError as error:
        raise ImageUnsafe(path, f"names a parent that is not text: {raw!r}") from error
    problem = _problem(name)
    if problem:
        raise ImageUnsafe(path, f"names the parent {name!r}, which {problem}; rebase it by hand")
    return name


def volume_name(path: Path, raw: bytes) -> str:
    """As `plain_name`; but `/dev/<group>/<name>` is given as it is.

    Other managers write that where images are logical volumes. It is not followed either: whoever
    knows in which group the image is takes it apart.
    """
    if raw.startswith(DEVICES) and raw.count(b"/") == DEVICES.count(b"/") + 1:
        group, _, last = raw.removeprefix(DEVICES).partition(b"/")
        return f"/dev/{plain_name(path, group)}/{plain_name(path, last)}"
    return plain_name(path, raw)


def _problem(name: str) -> str | None:
    if name in ("", ".", ".."):
        return "is no file name"
    if "/" in name:
        return "leads to another folder"
    if ":" in name:  # qemu takes what is before the first colon for a protocol
        return "is a protocol or a description, not a file"
    if not name.isprintable():
        return "has control characters"
    return None
