"""Which images unfinished work holds, and which a record holds that cannot be read. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from sm.journal import Entry, Unreadable
from sm.tree import Forest


def by_entries(entries: Iterable[Entry]) -> dict[str, str]:
    """UUID of each image that readable work is about, and which work."""
    return {uuid: f"{entry.operation} of {entry.key}" for entry in entries for uuid in entry.images}


def by_unreadable(records: Iterable[Unreadable], forest: Forest) -> dict[str, str]:
    """UUID of each image of a tree that an unreadable record may be about, and which record.

    That is the tree of its key. Where the name tells no key, or one that has no image now, it may
    be about every image.
    """
    held: dict[str, str] = {}
    for each in records:
        uuids = [node.uuid for node in forest]
        if each.key is not None and each.key in forest:
            root = forest.root(each.key)
            uuids = [uuid for uuid in uuids if forest.root(uuid) == root]
        held.update(dict.fromkeys(uuids, each.work))
        if each.key is not None:
            held[each.key] = each.work
    return held
