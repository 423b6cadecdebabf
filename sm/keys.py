"""Names of the keys in sm-config and other-config that other programs know, and the marks in them.

The names are SMAPI's own. Marks (`host_...` and the like) are lock state: they are never copied to
another VDI, and never touched by whatever refreshes descriptive keys.
"""

from __future__ import annotations

from collections.abc import Mapping

from sm.cowutil.registry import CLIENT_NAMES

PARENT = "vhd-parent"
"""UUID of the parent image, whatever its format; a copy of what the image says."""

IMAGE_FORMAT = "image-format"
FORMAT_HINT = "type"
VDI_TYPE = "vdi_type"
HOST_PREFIX = "host_"
CLAIM_PREFIX = "coalescing-"
"""On the SR: images that a collector is merging; the value says which, and who."""

CHANGE_PREFIX = "changing-"
"""On a shared SR: a disk whose image a command is changing; the value says who."""

ACTIVATING = "activating"
"""On a VDI: it is being activated; the value is the owner, so that a stale one can be told."""

CREATING = "creating"
"""On a VDI: its image is not there yet; the value is the owner, so that a stale one can be told."""

DELETING = "deleting"
"""On a VDI: its image is about to go; the value is the owner, as above."""

FILLING = "filling"
"""On a VDI: a snapshot that was made empty, and is written until it is deactivated first."""

COMING_AND_GOING = (CREATING, DELETING)

WAITS_FOR_SPACE = "waits-for-space"
"""On a VDI: its users wait, because the SR is full; the value is how many bytes it needs."""

WAITS_FOR_MASTER = "waits-for-master"
"""On a VDI: its users wait for as many bytes, and the SR master does not give them otherwise."""

WAITS = (WAITS_FOR_SPACE, WAITS_FOR_MASTER)


def vdi_type(image_format: str) -> str:
    """What `vdi_type` is called for an image format."""
    return CLIENT_NAMES.get(image_format, image_format)


def host_key(host_ref: str) -> str:
    """The key that says that a host has the VDI active."""
    return f"{HOST_PREFIX}{host_ref}"


def active_hosts(sm_config: Mapping[str, str]) -> dict[str, str]:
    """Reference of each host that has the VDI active, and how: `RW` or `RO`."""
    return {
        key.removeprefix(HOST_PREFIX): value
        for key, value in sm_config.items()
        if key.startswith(HOST_PREFIX)
    }


MARKS = frozenset(
    {"paused", "relinking", ACTIVATING, FILLING, *COMING_AND_GOING, "vhd-blocks", *WAITS}
)
"""Lock state and caches that belong to one VDI."""


def without_marks(sm_config: Mapping[str, str]) -> dict[str, str]:
    """A copy without what belongs to one VDI's present use; copied, it would block the other."""
    return {
        key: value
        for key, value in sm_config.items()
        if key not in MARKS and not key.startswith(HOST_PREFIX)
    }
