"""What a storage remembers of names in its SR: a copy of what the pool says, for other pools."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

Keep = Callable[[str], bool]
"""Whether a disk (UUID) that a storage remembers stays as it is, although nothing is said of it."""


@dataclass(frozen=True, slots=True)
class Described:
    """One disk, or an inner image of its chain (`managed` false).

    `snapshot_of` is a UUID, as references mean nothing to another pool; empty for none.
    `snapshot_time` is ISO 8601, empty for none. `vdi_type` is what clients call the format.
    """

    uuid: str
    name_label: str = ""
    name_description: str = ""
    type: str = "user"
    is_a_snapshot: bool = False
    snapshot_of: str = ""
    snapshot_time: str = ""
    read_only: bool = False
    managed: bool = True
    metadata_of_pool: str = ""
    vdi_type: str = ""


@dataclass(frozen=True, slots=True)
class Catalogue:
    """The name of an SR, and its disks by UUID."""

    name_label: str = ""
    name_description: str = ""
    disks: Mapping[str, Described] = field(default_factory=dict)
