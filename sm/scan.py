"""One look at an SR: every volume's headers read once, and the trees that they form."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from sm.cowutil.base import CowUtil, ImageInfo
from sm.cowutil.errors import ImageError
from sm.cowutil.registry import Formats
from sm.tree import MISNAMED, Forest, Node, Reference
from sm.volumes.base import Stranger, Volume, VolumeStore


@dataclass(frozen=True, slots=True)
class Scan:
    """What one look found: the trees, and by UUID the volume and headers of each readable image."""

    forest: Forest
    volumes: dict[str, Volume]
    infos: dict[str, ImageInfo]


def scan(
    store: VolumeStore, formats: Formats, in_work: Callable[[], Collection[str]] = tuple
) -> Scan:
    """Read the headers of every image. One bad image is a node with a problem, not a failure.

    `in_work` gives the UUIDs of the images that unfinished work is about: one file may have two
    names then. It is asked only where there are such.

    Raises `SrUnavailable` when the storage is gone: that is no SR without disks.
    """
    listing = store.listing()
    others = {stranger.name for stranger in listing.strangers}
    nodes: dict[str, Node] = {}
    infos: dict[str, ImageInfo] = {}
    volumes: dict[str, Volume] = {}
    for volume, path in store.headers(listing.volumes):
        if volume.uuid in nodes:
            nodes[volume.uuid] = _twice(nodes[volume.uuid], volume)
            continue
        volumes[volume.uuid] = volume
        try:
            info = replace(formats.get(volume.format).info(path), path=volume.path)
        except (ImageError, OSError) as error:
            nodes[volume.uuid] = Node(
                volume.uuid,
                volume.format,
                used=volume.used,
                problem=str(error).replace(str(path), str(volume.path)),
                parent_known=not isinstance(formats.get(volume.format), CowUtil),
            )
            continue
        infos[volume.uuid] = info
        nodes[volume.uuid] = _node(store, volume, info, others)
    references = [
        _reference(store, formats, stranger, path, others)
        for stranger, path in store.headers(listing.strangers)
    ]
    references += _misnamed(store, infos)
    nodes |= _of_one_file(nodes, volumes, in_work)
    forest = Forest(nodes.values(), references, parent_formats(formats))
    return Scan(forest, volumes, infos)


def parent_formats(formats: Formats) -> dict[str, frozenset[str]]:
    """Which formats an image of each format may have as parent; none for one that is not COW."""
    found: dict[str, frozenset[str]] = {}
    for name in formats.names:
        image_format = formats.get(name)
        found[name] = (
            image_format.parent_formats if isinstance(image_format, CowUtil) else frozenset()
        )
    return found


def _node(store: VolumeStore, volume: Volume, info: ImageInfo, others: Collection[str]) -> Node:
    """`others`: names of strangers, each of which tells by itself what it needs."""
    parent: str | None = None
    known = True
    problem = f"marked {', '.join(info.marks)}" if "corrupt" in info.marks else None
    if info.parent is not None:
        target = store.parent_uuid(info.parent.name)
        if target is None:
            problem = f"its parent {info.parent.name!r} is no image of this SR"
            # An identity tells which image it is, if it is here; else it may be any.
            known = bool(info.parent.identity) or info.parent.name in others
        elif info.parent.format not in (None, target[1]):
            problem = f"it takes its parent {info.parent.name!r} for {info.parent.format}"
        else:
            parent = target[0]
    return Node(
        volume.uuid,
        volume.format,
        parent=parent,
        hidden=info.hidden or volume.hidden,
        virtual_size=info.virtual_size,
        used=volume.used,
        problem=problem,
        parent_known=known,
    )


def _of_one_file(
    nodes: Mapping[str, Node],
    volumes: Mapping[str, Volume],
    in_work: Callable[[], Collection[str]],
) -> dict[str, Node]:
    """The images that are one file under several names: what is done to one is done to all."""
    names: dict[tuple[int, int], list[str]] = {}
    for volume in volumes.values():
        if volume.inode is not None:
            names.setdefault(volume.inode, []).append(volume.uuid)
    several = [uuids for uuids in names.values() if len(uuids) > 1]
    explained = set(in_work()) if several else set()
    return {
        uuid: replace(
            nodes[uuid],
            problem=f"it and {', '.join(each for each in uuids if each != uuid)} are one file",
            twice=True,
        )
        for uuids in several
        if set(uuids) - explained
        for uuid in uuids
    }


def _misnamed(store: VolumeStore, infos: Mapping[str, ImageInfo]) -> list[Reference]:
    """What is needed by images whose parents have names that mean nothing here, by identities."""
    found = []
    for uuid, info in infos.items():
        link = info.parent
        if link is not None and link.identity and store.parent_uuid(link.name) is None:
            found += [
                Reference(f"image {uuid}", info.format, other, parent_known=True, said=MISNAMED)
                for other, each in infos.items()
                if each.identity == link.identity
            ]
    return found


def _twice(node: Node, volume: Volume) -> Node:
    """Two files claim one UUID: neither may be trusted, nor anything that either may need."""
    return Node(
        node.uuid,
        node.format,
        used=node.used + volume.used,
        problem=f"there is a {node.format} and a {volume.format} image with this UUID",
        parent_known=False,
        twice=True,
    )


def _reference(
    store: VolumeStore, formats: Formats, stranger: Stranger, path: Path, others: Collection[str]
) -> Reference:
    """What a stranger needs; `path`: where its headers can be read."""
    try:
        info = formats.get(stranger.format).info(path)
    except (ImageError, OSError):
        return Reference(stranger.name, stranger.format, None, parent_known=False)
    if info.parent is None:
        return Reference(stranger.name, stranger.format, None, parent_known=True)
    target = store.parent_uuid(info.parent.name)
    if target is None:
        known = info.parent.name in others
        return Reference(stranger.name, stranger.format, None, parent_known=known)
    return Reference(stranger.name, stranger.format, target[0], parent_known=True)
