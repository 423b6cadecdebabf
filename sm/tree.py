"""The trees of an SR as plain values, built from one scan. Pure: no file, no clock, no database.

The parent, the hidden mark and the size of an image come from the image alone. What could not be
read is kept as a node with a `problem`, because what we do not understand must not be lost, and
must keep us from deleting what it may depend on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property


@dataclass(frozen=True, slots=True)
class Node:
    """One image. Sizes in bytes.

    `parent` is the UUID that the image names; None for a base, and when `problem` is set and
    `parent_known` is not. `problem` says why the image cannot be used as it is. `twice`: there is
    another image with this UUID, or another name of this image.
    """

    uuid: str
    format: str
    parent: str | None = None
    hidden: bool = False
    virtual_size: int = 0
    used: int = 0
    problem: str | None = None
    parent_known: bool = True
    twice: bool = False


STRANGER = "which is no image of this SR"
AWAY = "whose image is away"
MISNAMED = "which names its parent otherwise"


@dataclass(frozen=True, slots=True)
class Reference:
    """Something that depends on an image of the SR besides those that name it as their parent.

    `said` tells how: a file that is not ours but lives in the SR (`STRANGER`), a disk that the pool
    knows and whose image is not there now (`AWAY`), an image that can be told by an identity alone
    to be the child of another (`MISNAMED`). `parent` is None when it depends on nothing; when that
    cannot be known, `parent_known` is false.
    """

    name: str
    format: str
    parent: str | None
    parent_known: bool
    said: str = STRANGER


@dataclass(frozen=True, slots=True)
class Blocked:
    """Why an image must stay as it is. `code` is stable."""

    code: str
    reason: str


class Forest:
    """All trees of an SR. `parent_formats` says which formats an image of a format may sit on."""

    def __init__(
        self,
        nodes: Iterable[Node],
        references: Iterable[Reference] = (),
        parent_formats: Mapping[str, frozenset[str]] | None = None,
    ) -> None:
        self.nodes: dict[str, Node] = {node.uuid: node for node in nodes}
        self.references = tuple(references)
        self._parent_formats = parent_formats or {}

    def __contains__(self, uuid: str) -> bool:
        return uuid in self.nodes

    def __getitem__(self, uuid: str) -> Node:
        return self.nodes[uuid]

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    @cached_property
    def children(self) -> Mapping[str, tuple[str, ...]]:
        """The UUIDs of the children of each image, sorted; images without any are absent."""
        found: dict[str, list[str]] = {}
        for node in self.nodes.values():
            if node.parent is not None:
                found.setdefault(node.parent, []).append(node.uuid)
        return {parent: tuple(sorted(uuids)) for parent, uuids in found.items()}

    def children_of(self, uuid: str) -> tuple[str, ...]:
        """The UUIDs of the children of one image."""
        return self.children.get(uuid, ())

    def chain(self, uuid: str) -> list[Node]:
        """The image and its parents down to the base, or to where a parent is missing."""
        found: list[Node] = []
        seen: set[str] = set()
        current: str | None = uuid
        while current is not None and current in self.nodes and current not in seen:
            seen.add(current)
            found.append(self.nodes[current])
            current = self.nodes[current].parent
        return found

    def depth(self, uuid: str) -> int:
        """How many images the chain of `uuid` has, itself included."""
        return len(self.chain(uuid))

    def root(self, uuid: str) -> str:
        """The base of the tree of `uuid`, or the image over the place where one is missing."""
        return self.chain(uuid)[-1].uuid

    @cached_property
    def roots(self) -> tuple[str, ...]:
        """One image for each tree: its base. A circle of images has its smallest UUID for one."""
        own = {
            node.uuid
            for node in self.nodes.values()
            if node.parent is None or node.parent not in self.nodes
        }
        in_circles = [self.chain(uuid) for uuid in self.nodes if uuid in self.circular]
        return tuple(sorted(own | {min(node.uuid for node in chain) for chain in in_circles}))

    def subtree(self, uuid: str) -> list[Node]:
        """The image and everything above it, parents before children."""
        found: list[Node] = []
        waiting = [uuid]
        seen: set[str] = set()
        while waiting:
            current = waiting.pop()
            if current in seen:
                continue
            seen.add(current)
            found.append(self.nodes[current])
            waiting.extend(reversed(self.children_of(current)))
        return found

    def leaves_above(self, uuid: str) -> list[Node]:
        """The images of the subtree of `uuid` that have no children."""
        return [node for node in self.subtree(uuid) if not self.children_of(node.uuid)]

    @cached_property
    def circular(self) -> frozenset[str]:
        """The images whose chain never ends: a circle, or something that sits on one."""
        ends: dict[str, bool] = {}
        for start in self.nodes:
            path: list[str] = []
            on_path: set[str] = set()
            current: str | None = start
            while (
                current in self.nodes
                and current is not None
                and current not in ends
                and current not in on_path
            ):
                path.append(current)
                on_path.add(current)
                current = self.nodes[current].parent
            circle = current in on_path or (current in ends and not ends[current or ""])
            ends.update((uuid, not circle) for uuid in path)
        return frozenset(uuid for uuid, good in ends.items() if not good)

    def defect(self, uuid: str) -> str | None:
        """Why this image is not usable: unreadable, a missing or unfit parent, a circle."""
        node = self.nodes[uuid]
        if node.problem:
            return node.problem
        if uuid in self.circular:
            return "its chain of parents is a circle"
        if node.parent is None:
            return None
        parent = self.nodes.get(node.parent)
        if parent is None:
            return f"its parent {node.parent} is missing"
        if parent.format not in self._parent_formats.get(node.format, {parent.format}):
            return f"a {node.format} image cannot have a {parent.format} parent"
        return None

    def chain_defect(self, uuid: str) -> tuple[str, str] | None:
        """The uppermost unusable image of the chain of `uuid`, and why; None if all is well."""
        for node in self.chain(uuid):
            found = self.defect(node.uuid)
            if found:
                return node.uuid, found
        return None

    @cached_property
    def _defects(self) -> Mapping[str, str]:
        found = {uuid: self.defect(uuid) for uuid in self.nodes}
        return {uuid: text for uuid, text in found.items() if text}

    @cached_property
    def _damaged_trees(self) -> Mapping[str, str]:
        """Base of each tree with a defect in it, and the defect."""
        return {self.root(uuid): f"image {uuid}: {text}" for uuid, text in self._defects.items()}

    def blocked(self, uuid: str) -> Blocked | None:
        """Why nothing that this image may support can be deleted or merged; None when all is well.

        A defect blocks its whole tree. An image whose parent cannot be known blocks every image
        that could be its parent, wherever it is.
        """
        damage = self._damaged_trees.get(self.root(uuid))
        if damage:
            return Blocked("damaged-tree", damage)
        image_format = self.nodes[uuid].format
        for node in self._of_unknown_parent:
            if self._may_support(image_format, node.format):
                text = f"image {node.uuid} may depend on it: {node.problem}"
                return Blocked("damaged-tree", text)
        supported = {node.uuid for node in self.subtree(uuid)} if self.references else set()
        for reference in self.references:
            code = "image-missing" if reference.said == AWAY else "damaged-tree"
            if not reference.parent_known and self._may_support(image_format, reference.format):
                return Blocked(code, f"{reference.name}, {reference.said}, may depend on it")
            if reference.parent in supported:
                return Blocked(code, f"{reference.name}, {reference.said}, depends on it")
        return None

    def with_references(self, more: Iterable[Reference]) -> Forest:
        """The same trees, and what else depends on them."""
        added = tuple(more)
        if not added:
            return self
        return Forest(self.nodes.values(), (*self.references, *added), self._parent_formats)

    @cached_property
    def _of_unknown_parent(self) -> tuple[Node, ...]:
        return tuple(node for node in self.nodes.values() if not node.parent_known)

    def _may_support(self, parent_format: str, child_format: str) -> bool:
        return parent_format in self._parent_formats.get(child_format, {parent_format})
