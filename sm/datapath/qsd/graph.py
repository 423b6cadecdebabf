"""The block graph of a served chain, as values for the command line and for QMP. Pure.

Each image is two nodes, `f<number>` for the file and `n<number>` for the format; a throttle node
`top` stands above the leaf, so that what is exported has one name whatever changes below.

The file nodes of parents are opened for writing and only their format nodes are read-only: a file
node that must be reopened for a merge is opened again by its name, which may mean another file by
then (qemu-storage-daemon 7.2). Of a disk that is only read nothing is opened for writing, nor is a
device that may not be written to now; before it is merged into, the parents are opened afresh.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from errno import EIO
from pathlib import Path
from typing import Any

from sm.cowutil.base import ImageRef
from sm.cowutil.device import is_sealed
from sm.cowutil.registry import QEMU_DRIVERS

TOP = "top"
EXPORT = "disk"
"""The export's identity in the daemon; its users know it by a name of its own."""

THROTTLE = "limit"
NULL = "null"
NOTHING = "nothing"
REFUSE = "refuse"

CLUSTER = 64 << 10
"""Bytes; what a QCOW2 image is made of unless its maker wanted otherwise."""

Options = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Node:
    """One image of the graph: its number names its two nodes."""

    number: int
    image: ImageRef

    @property
    def file(self) -> str:
        """The name of its file node."""
        return f"f{self.number}"

    @property
    def format(self) -> str:
        """The name of its format node."""
        return f"n{self.number}"


def number(chain: Sequence[ImageRef], first: int) -> tuple[Node, ...]:
    """Nodes for a chain, uppermost first; the base gets the number `first`."""
    highest = first + len(chain) - 1
    return tuple(Node(highest - index, image) for index, image in enumerate(chain))


def file_options(node: Node, *, read_only: bool) -> Options:
    """The file node of an image. A device, which other hosts may change, is read past the cache."""
    options: Options = {
        "driver": "file",
        "node-name": node.file,
        "filename": str(node.image.path),
        "discard": "unmap",
    }
    if node.image.path.is_block_device():
        options |= {"driver": "host_device", "cache": {"direct": True}}
    return {**options, "read-only": True} if read_only else options


def format_options(node: Node, below: Node | None, *, read_only: bool) -> Options:
    """The format node of an image over the one below it; also what `blockdev-reopen` takes."""
    options: Options = {
        "driver": QEMU_DRIVERS[node.image.format].name,
        "node-name": node.format,
        "file": node.file,
        "read-only": read_only,
        "discard": "unmap",
        "detect-zeroes": "off" if read_only else "unmap",
    }
    if QEMU_DRIVERS[node.image.format].backed:
        options["backing"] = below.format if below is not None else None
    return options


def top_options(below: str, *, read_only: bool) -> Options:
    """The throttle node that is exported, over the node called `below`."""
    return {
        "driver": "throttle",
        "node-name": TOP,
        "throttle-group": THROTTLE,
        "file": below,
        "read-only": read_only,
        "discard": "unmap",
    }


def image_nodes(
    nodes: Sequence[Node], *, read_only: bool, parents: bool = False
) -> list[tuple[Options, Options]]:
    """The file and the format node of each image, in the order in which they can be made.

    `read_only`: of the disk. With `parents`, none of them is a leaf.
    """
    found: list[tuple[Options, Options]] = []
    for index in reversed(range(len(nodes))):
        node, leaf = nodes[index], index == 0 and not parents
        below = nodes[index + 1] if index + 1 < len(nodes) else None
        sealed = not leaf and is_sealed(node.image.path)
        found.append(
            (
                file_options(node, read_only=read_only or sealed),
                format_options(node, below, read_only=not leaf or read_only),
            )
        )
    return found


def blockdevs(nodes: Sequence[Node], *, read_only: bool) -> list[Options]:
    """All nodes of a chain in the order in which they can be made: base first, `top` last."""
    found = [each for options in image_nodes(nodes, read_only=read_only) for each in options]
    return [*found, top_options(nodes[0].format, read_only=read_only)]


def blockers(size: int) -> list[Options]:
    """The nodes that a disk of `size` bytes is held with: `NULL`, and `REFUSE` over one like it.

    What is written to `NULL` is lost; on `REFUSE` all reads and writes fail.
    """
    refused = [
        {"event": "none", "iotype": kind, "errno": EIO}
        for kind in ("read", "write", "write-zeroes")
    ]
    return [
        {"driver": "null-co", "node-name": NULL, "size": size},
        {"driver": "null-co", "node-name": NOTHING, "size": size},
        {"driver": "blkdebug", "node-name": REFUSE, "image": NOTHING, "inject-error": refused},
    ]


def nbd_export(name: str, socket: Path, *, read_only: bool) -> list[str]:
    """Arguments that show the disk over NBD as `name`."""
    shown: Options = {"type": "nbd", "id": EXPORT, "node-name": TOP, "name": name}
    return [
        *("--nbd-server", f"addr.type=unix,addr.path={_escaped(socket)},max-connections=0"),
        *("--export", _json({**shown, "writable": not read_only})),
    ]


def file_export(path: Path, *, read_only: bool) -> list[str]:
    """Arguments that show the disk as the file `path`, of a fixed size."""
    shown: Options = {"type": "fuse", "id": EXPORT, "node-name": TOP, "mountpoint": str(path)}
    return ["--export", _json({**shown, "writable": not read_only, "growable": False})]


def command_line(
    nodes: Sequence[Node],
    export: Sequence[str],
    *,
    read_only: bool,
    monitors: Sequence[Path],
    pid_file: Path,
    pace: int | None = None,
) -> list[str]:
    """How the daemon is started on a chain. It returns to its caller once all is open.

    `monitors`: the sockets at which it takes commands, each from one client at a time. `pace`: by
    how many bytes per second the leaf may grow; a write of any length may take a whole cluster.
    """
    group: Options = {"qom-type": "throttle-group", "id": THROTTLE}
    if pace is not None:
        group["limits"] = {"bps-write": pace, "iops-write": max(1, pace // CLUSTER)}
    commands: list[str] = []
    for index, monitor in enumerate(monitors):
        commands += [
            *("--chardev", f"socket,id=mon{index},path={_escaped(monitor)},server=on,wait=off"),
            *("--monitor", f"chardev=mon{index},mode=control"),
        ]
    argv = [
        "qemu-storage-daemon",
        "--daemonize",
        *("--pidfile", str(pid_file)),
        *commands,
        *("--object", _json(group)),
    ]
    for options in blockdevs(nodes, read_only=read_only):
        argv += ["--blockdev", _json(options)]
    return [*argv, *export]


def _json(options: Options) -> str:
    return json.dumps(options, ensure_ascii=False)


def _escaped(path: Path) -> str:
    """A path as a value of a key=value list, where a comma is written twice."""
    return str(path).replace(",", ",,")
