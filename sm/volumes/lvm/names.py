"""What the volumes of a group are called. Pure.

Images, and the volume with the names of the disks, are called as by other managers in the style of
SMAPI, so that their volume groups can be read, and ours by them. What only we make begins with a
small letter and is none of theirs.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sm.cowutil.registry import VOLUME_PREFIXES

GROUP_PREFIX = "VG_XenStorage-"
NAMES = "MGT"
"""The volume that remembers what the disks are called."""

RECORDS = "sm-records"
"""The volume with our records."""

HIDDEN_TAG = "hidden"
"""The mark of a hidden image whose format has no place for one."""

_UUID = r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}"
_FORMATS = {prefix: image_format for image_format, prefix in VOLUME_PREFIXES.items()}
_NAME = re.compile(rf"(?:(new|old)-)?({'|'.join(map(re.escape, _FORMATS))})-({_UUID})")
_LIKE = re.compile(rf"({'|'.join(map(re.escape, _FORMATS))})-.*", re.DOTALL)


class Stage(StrEnum):
    """`NEW`: not whole yet, or without its name yet; `OLD`: its name is for another volume now."""

    NEW = "new"
    OLD = "old"


@dataclass(frozen=True, slots=True)
class ImageName:
    """The name of a volume that holds an image, taken apart."""

    uuid: str
    format: str
    stage: Stage | None = None

    @property
    def text(self) -> str:
        """The name itself."""
        name = f"{VOLUME_PREFIXES[self.format]}-{self.uuid}"
        return name if self.stage is None else f"{self.stage}-{name}"


def group_name(sr_uuid: str) -> str:
    """The name of the volume group of an SR."""
    return f"{GROUP_PREFIX}{sr_uuid}"


def folder(group: str) -> Path:
    """Where the paths of active volumes are."""
    return Path("/dev") / group


def parse(name: str, formats: Collection[str]) -> ImageName | None:
    """Take a name apart; None for a volume that holds no image of ours."""
    match = _NAME.fullmatch(name)
    if match is None or _FORMATS[match[2]] not in formats:
        return None
    return ImageName(match[3], _FORMATS[match[2]], Stage(match[1]) if match[1] else None)


def looks_like(name: str, formats: Collection[str]) -> str | None:
    """The format of what may be an image of another manager, by its name."""
    match = _LIKE.fullmatch(name)
    return _FORMATS[match[1]] if match and _FORMATS[match[1]] in formats else None
