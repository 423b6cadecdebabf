"""How an image spells the path of its parent, and what of that is believed.

The text is untrusted: only a plain base name in the same folder is taken; an absolute path beside a
good relative one is ignored, and any other path is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from sm.cowutil.errors import ImageCorrupt, ImageUnsafe
from sm.cowutil.vhd.geometry import SECTOR
from sm.cowutil.vhd.header import LOCATOR_COUNT, NO_PARENT_ID, Header, Locator

MAC_URL = b"MacX"
WINDOWS_ABSOLUTE = b"W2ku"
WINDOWS_RELATIVE = b"W2ru"
ENCODINGS = {MAC_URL: "utf-8", WINDOWS_ABSOLUTE: "utf-16-le", WINDOWS_RELATIVE: "utf-16-le"}
"""The codes in use and how each spells text; the other codes of the specification are obsolete."""

MAX_LOCATOR = 4096
"""More than any file system allows for a path; a longer locator is refused unread."""

MAX_NAME = 255
NAME_FIELD = 512


def parent_name(path: Path, header: Header, fetch: Callable[[int, int], bytes]) -> str:
    """The base name of the parent, from the locators.

    `fetch(offset, length)` reads from the image. Where several plain names contradict each other,
    as an interrupted change of the link leaves them, the one in the header decides. `ImageUnsafe`:
    a name outside the folder. `ImageCorrupt`: none that can be read.
    """
    plain: set[str] = set()
    absolute: list[str] = []
    for index, locator in enumerate(header.locators):
        if locator is None or locator.code not in ENCODINGS:
            continue
        text = _decode(path, index, locator, fetch)
        name = _plain(text)
        if name is not None:
            plain.add(name)
        elif _is_absolute(text):
            absolute.append(text)
        else:
            raise ImageUnsafe(path, f"names a parent outside its own folder: {text!r}")
    if not plain and absolute:
        raise ImageUnsafe(path, f"names its parent by an absolute path only: {absolute[0]!r}")
    if not plain:
        problem = "no locator names the parent"
        raise ImageCorrupt(path, "header locators", header.locator_position(0), problem)
    if len(plain) > 1:
        plain &= {header_name(header)}
    if len(plain) != 1:
        problem = "they name different parents"
        raise ImageCorrupt(path, "header locators", header.locator_position(0), problem)
    return plain.pop()


@dataclass(frozen=True, slots=True)
class Spelling:
    """A parent's name as the header holds it; `contents` go to the slot that the locators name."""

    parent_name: bytes
    locators: tuple[Locator | None, ...]
    contents: bytes


def slot_size(path: Path, name: str) -> int:
    """How many bytes of the image at `path` the locators for `name` take: whole sectors."""
    return len(spell_parent(path, name, 0).contents)


def spell_parent(path: Path, name: str, slot: int) -> Spelling:
    """How to name `name`, a file in the same folder, with locators at byte `slot` of the image.

    `ImageUnsafe` where the name would not be read back.
    """
    field = name.encode("utf-16-be", "replace")
    if _plain(f".\\{name}") != name or len(field) > 2 * MAX_NAME:
        raise ImageUnsafe(path, f"{name!r} cannot be the name of a parent")
    spellings = ((MAC_URL, f"file://./{name}"), (WINDOWS_RELATIVE, f".\\{name}"))
    locators: list[Locator | None] = [None] * LOCATOR_COUNT
    contents = b""
    for index, (code, text) in enumerate(spellings):
        encoded = text.encode(ENCODINGS[code], "replace")
        space = -(-len(encoded) // SECTOR) * SECTOR
        locators[index] = Locator(code, space, len(encoded), slot + len(contents))
        contents += encoded.ljust(space, b"\0")
    return Spelling(field.ljust(NAME_FIELD, b"\0"), tuple(locators), contents)


def one_locator(path: Path, header: Header, fetch: Callable[[int, int], bytes]) -> Header:
    """`header` with the first locator alone that spells the name of the parent."""
    name = parent_name(path, header, fetch)
    for index, locator in enumerate(header.locators):
        if locator is None or locator.code not in ENCODINGS:
            continue
        if _plain(_decode(path, index, locator, fetch)) == name:
            return replace(header, locators=(locator, *(None,) * (LOCATOR_COUNT - 1)))
    return header


def spells_one_name(path: Path, header: Header, fetch: Callable[[int, int], bytes]) -> bool:
    """Whether every locator spells the name that `parent_name` gives, plainly.

    libvhd, and with it tapdisk, takes the first locator whose file it can open, an absolute path
    too.
    """
    name = parent_name(path, header, fetch)
    for index, locator in enumerate(header.locators):
        if locator is None or locator.code not in ENCODINGS:
            continue
        if _plain(_decode(path, index, locator, fetch)) != name:
            return False
    return True


def has_raw_parent(header: Header) -> bool:
    """Whether the parent is raw: nothing identifies it then."""
    return header.parent_id == NO_PARENT_ID


def _decode(path: Path, index: int, locator: Locator, fetch: Callable[[int, int], bytes]) -> str:
    def refuse(problem: str) -> ImageCorrupt:
        return ImageCorrupt(path, f"parent locator {index}", locator.offset, problem)

    if not 0 < locator.length <= MAX_LOCATOR:
        raise refuse(f"its length of {locator.length} bytes is not 1 to {MAX_LOCATOR}")
    if locator.offset < SECTOR:
        raise refuse("it lies on the footer")
    data = fetch(locator.offset, locator.length)
    if len(data) < locator.length:
        raise refuse("the file ends inside it")
    try:
        text = data.decode(ENCODINGS[locator.code])
    except UnicodeDecodeError as error:
        raise refuse(f"it is not {ENCODINGS[locator.code]} text") from error
    return text.rstrip("\0")


def _plain(text: str) -> str | None:
    """The base name that `text` spells relative to the folder of the image, if it is just that."""
    name = text.removeprefix("file://").replace("\\", "/").removeprefix("./")
    usable = name not in ("", ".", "..") and not any(c in "/:" or ord(c) < 32 for c in name)
    return name if usable else None


def _is_absolute(text: str) -> bool:
    location = text.removeprefix("file://").replace("\\", "/")
    return location.startswith("/") or location[1:3] == ":/"


def header_name(header: Header) -> str:
    """The base name in the header itself, for comparison only."""
    text = header.parent_name.decode("utf-16-be", "replace").rstrip("\0")
    return text.replace("\\", "/").rpartition("/")[2]
