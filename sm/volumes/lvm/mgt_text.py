"""What the sectors of the volume MGT say, in XML. Pure.

The format is that of the managers in the style of SMAPI. A text has to fit its sector, so names are
cut, between characters and never inside an escape. Sectors are read one disk at a time, since their
writers did not always keep illegal characters out.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

from sm.pool.times import NO_TIME
from sm.volumes.described import Described

SECTOR: Final = 512

NAMES_ROOM: Final = SECTOR - len(
    "<vdi><name_label></name_label><name_description></name_description>"
)
"""Bytes for the name and the description of a disk, both together and escaped."""

UUID: Final = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"

_PROLOG: Final = '<?xml version="1.0" ?>'
_ANY_PROLOG = re.compile(r"\A\s*<\?xml[^>]*\?>")
_ILLEGAL = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
_ESCAPES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "\r": "&#13;"})
_UUID = re.compile(UUID)
_WORDS: Final = "(?:[^<&]|&(?:amp|lt|gt|#13);)*"
_SOUND = re.compile(
    f"<vdi><name_label>{_WORDS}</name_label><name_description>{_WORDS}</name_description> *"
)


def legal(text: str) -> str:
    """`text` with a question mark for each character that XML cannot carry."""
    return _ILLEGAL.sub("?", text)


def fitted(text: str, room: int) -> str:
    """`text` escaped, and as much of it as takes no more than `room` bytes."""
    text = legal(text[: max(0, room)])
    whole = text.translate(_ESCAPES)
    if len(whole.encode("utf-8")) <= room:
        return whole
    kept: list[str] = []
    for character in text:
        escaped = character.translate(_ESCAPES)
        room -= len(escaped.encode("utf-8"))
        if room < 0:
            break
        kept.append(escaped)
    return "".join(kept)


def about_sr(uuid: str, allocation: str, name_label: str, name_description: str) -> bytes:
    """The three sectors about the SR."""
    return b"".join(
        (
            _sector(
                f"{_PROLOG}{_element('uuid', uuid, 64)}{_element('allocation', allocation, 16)}"
            ),
            _sector(_alone("name_label", name_label)),
            _sector(_alone("name_description", name_description)),
        )
    )


def about_disk(disk: Described) -> bytes:
    """The two sectors about a disk."""
    description = fitted(disk.name_description, NAMES_ROOM)
    # A name has at least half of the room, and what a short description leaves.
    spare = NAMES_ROOM - len(description.encode("utf-8"))
    label = fitted(disk.name_label, max(NAMES_ROOM // 2, spare))
    description = fitted(disk.name_description, NAMES_ROOM - len(label.encode("utf-8")))
    first = (
        f"<vdi><name_label>{label}</name_label><name_description>{description}</name_description>"
    )
    return _sector(first) + _sector(_second(disk, deleted=False))


def no_disk(first: bytes, uuid: str) -> bytes:
    """The two sectors that a disk leaves to others when it is deleted.

    `first` is the first of them as it is: it stays if it can, so that only one sector changes.
    """
    if not _is_sound(first):
        first = _sector("<vdi><name_label></name_label><name_description></name_description>")
    return first + _sector(_second(Described(uuid), deleted=True))


def _is_sound(first: bytes) -> bool:
    """Whether the first sector of a disk has a name and a description that are XML."""
    try:
        text = first.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return bool(_SOUND.fullmatch(text)) and not _ILLEGAL.search(text)


def read_sr(sectors: bytes) -> Mapping[str, str]:
    """What the three sectors about the SR say, by element; without what cannot be read."""
    found: dict[str, str] = {}
    for start in range(0, len(sectors), SECTOR):
        found |= _elements(_text(sectors[start : start + SECTOR])) or {}
    return found


def read_disk(sectors: bytes) -> Described | None:
    """The disk that two sectors are about; None where it is deleted, or they cannot be read."""
    text = _text(sectors)
    if not text.startswith("<vdi>") or not text.endswith("</vdi>"):
        return None
    found = _elements(text.removeprefix("<vdi>").removesuffix("</vdi>"))
    if found is None or _is_true(found, "deleted") or not _UUID.fullmatch(found.get("uuid", "")):
        return None
    original = found.get("snapshot_of", "")
    return Described(
        uuid=found["uuid"],
        name_label=found.get("name_label", ""),
        name_description=found.get("name_description", ""),
        type=found.get("type") or "user",
        is_a_snapshot=_is_true(found, "is_a_snapshot"),
        snapshot_of=original if _UUID.fullmatch(original) else "",
        snapshot_time=found.get("snapshot_time", ""),
        read_only=_is_true(found, "read_only"),
        managed="managed" not in found or _is_true(found, "managed"),
        metadata_of_pool=found.get("metadata_of_pool", ""),
        vdi_type=found.get("vdi_type", ""),
    )


def _second(disk: Described, *, deleted: bool) -> str:
    return (
        f"{_element('uuid', disk.uuid, 36)}"
        f"{_flag('is_a_snapshot', disk.is_a_snapshot)}"
        f"{_element('snapshot_of', disk.snapshot_of, 36)}"
        f"{_element('snapshot_time', disk.snapshot_time or NO_TIME, 32)}"
        f"{_element('type', disk.type, 32)}"
        f"{_element('vdi_type', disk.vdi_type, 16)}"
        f"{_flag('read_only', disk.read_only)}"
        f"{_flag('managed', disk.managed)}"
        f"{_element('metadata_of_pool', disk.metadata_of_pool, 48)}"
        f"{_flag('deleted', deleted)}</vdi>"
    )


def _alone(name: str, text: str) -> str:
    return _element(name, text, SECTOR - 2 * len(name) - len("<></>"))


def _element(name: str, text: str, room: int) -> str:
    return f"<{name}>{fitted(text, room)}</{name}>"


def _flag(name: str, value: bool) -> str:
    return f"<{name}>{int(value)}</{name}>"


def _sector(text: str) -> bytes:
    return text.encode("utf-8").ljust(SECTOR)


def _text(raw: bytes) -> str:
    """Sectors as text that XML can carry, without what pads them."""
    text = raw.decode("utf-8", "replace").strip(" \0\n")
    return legal(_ANY_PROLOG.sub("", text))


def _is_true(found: Mapping[str, str], name: str) -> bool:
    return found.get(name, "").strip().lower() in ("1", "true")


def _elements(text: str) -> dict[str, str] | None:
    """The elements of a text; None where it is no XML."""
    # Slow to import, and only needed where a pool has no records.
    from lxml import etree  # noqa: PLC0415

    parser = etree.XMLParser(resolve_entities=False, no_network=True)
    try:
        # Inside of an element no document type can be declared.
        root = etree.fromstring(f"<all>{text}</all>", parser)
    except etree.XMLSyntaxError:
        return None
    elements: dict[str, str] = {}
    for each in root.iterchildren("*"):
        elements.setdefault(each.tag, each.text or "")
    return elements
