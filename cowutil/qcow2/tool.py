"""The command lines of qemu-img, and how their failures become our errors.

Every image is described by a graph that names its driver and its file, and its parents or that it
has none: so qemu neither guesses a format nor follows a name that it finds in an image.
"""

from __future__ import annotations

import errno
import json
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path

from sm.cowutil.base import ImageRef, ToolResult, ToolRunner
from sm.cowutil.errors import ImageBusy, ImageError

QEMU_IMG = "qemu-img"

DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL")
"""In front of what works for long: it must not go on, with the image locked, when we are gone."""

HEADER_TIMEOUT = 60.0
"""Seconds for work on a header: milliseconds, unless the storage hangs."""

CHECK_TIMEOUT = 3600.0
MERGE_TIMEOUT = 7 * 86400.0
"""Merges of tens of TiB on slow storage are legitimate; progress is watched by the caller."""

NODE_NAME_LIMIT = 4096
"""Size of qemu's buffer for the name of a node, with the final zero."""

ESCAPE = re.compile(r"\\u([0-9a-f]{4})")
PERCENT = re.compile(r"\((\d+)\.(\d\d)/100%\)")

Graph = dict[str, object]


def graph(chain: Sequence[ImageRef]) -> Graph:
    """The block graph of a chain, uppermost first; below the last one there is nothing."""
    described: Graph | None = None
    for member in reversed(chain):
        node: Graph = {
            "driver": member.format,
            "file": protocol(member.path),
        }
        if described is not None:
            node["backing"] = described
        described = node
    if described is None:
        raise ValueError("an empty chain has no graph")
    return described


def protocol(path: Path) -> Graph:
    """How qemu is to open a file or block device; each of its two drivers refuses the other's."""
    driver = "host_device" if path.is_block_device() else "file"
    return {"driver": driver, "filename": str(path.absolute())}


def alone(path: Path) -> Graph:
    """The graph of one QCOW2 image without its parents: they are not opened."""
    return {**graph([ImageRef(path, "qcow2")]), "backing": None}


def spelled(described: Graph) -> str:
    """A graph as a file name for qemu-img."""
    return "json:" + json.dumps(described, sort_keys=True)


def node_name(chain: Sequence[ImageRef]) -> str:
    """How qemu itself names the first node of a chain in an explicit graph; `commit -b` needs it.

    A node without parents is its file name. Any other is its graph in JSON, keys sorted, cut to
    qemu's buffer with dots at the end. Names of two nodes of a graph differ in spite of the cut:
    each level begins with one more `{"backing": `. A name that qemu does not find is an error.
    """
    if len(chain) == 1:
        return str(chain[0].path.absolute())
    # qemu escapes what is not ASCII with capital digits.
    name = ESCAPE.sub(lambda found: "\\u" + found[1].upper(), spelled(graph(chain)))
    if len(name) < NODE_NAME_LIMIT:
        return name
    return name[: NODE_NAME_LIMIT - 4] + "..."


def create_argv(path: Path, size: int, parent: ImageRef | None) -> list[str]:
    """Make an empty image; `-u` keeps qemu from opening the parent."""
    backing = ["-u", "-b", parent.path.name, "-F", parent.format] if parent else []
    options = ["-o", "compat=1.1,cluster_size=65536"]
    return [
        *(QEMU_IMG, "create", "-q", "-f", "qcow2"),
        *backing,
        *options,
        str(path.absolute()),
        str(size),
    ]


def past_cache(path: Path, *options: str) -> list[str]:
    """Options that keep a tool from what this host remembers of a device; see `sm.cowutil.device`.

    `options` are those that name the cache mode of each image that the tool opens.
    """
    return [word for option in options if path.is_block_device() for word in (option, "none")]


def rebase_argv(path: Path, parent: ImageRef | None) -> list[str]:
    """Write another backing name and format into the header, or take them out."""
    backing = ["-b", parent.path.name, "-F", parent.format] if parent else ["-b", ""]
    cache = past_cache(path, "-t", "-T")
    return [QEMU_IMG, "rebase", "-q", "-u", *cache, *backing, spelled(alone(path))]


def resize_argv(image: Graph, size: int) -> list[str]:
    """Grow the disk to `size` bytes."""
    return [*DIES_WITH_US, QEMU_IMG, "resize", "-q", spelled(image), str(size)]


def repair_argv(path: Path, what: str) -> list[str]:
    """Repair `leaks` or `all`."""
    cache = past_cache(path, "-T")
    return [*DIES_WITH_US, QEMU_IMG, "check", "-q", *cache, "-r", what, spelled(alone(path))]


def commit_argv(
    chain: Sequence[ImageRef], into: int, bytes_per_second: int | None = None
) -> list[str]:
    """Merge `chain[:into]` into `chain[into]`; `-d` leaves the merged images as they are."""
    rate = [] if bytes_per_second is None else ["-r", str(bytes_per_second)]
    return [
        *(*DIES_WITH_US, QEMU_IMG, "commit", "-p", "-d", *rate),
        *past_cache(chain[into].path, "-t"),
        *("-b", node_name(chain[into:])),
        spelled(graph(chain)),
    ]


def nbd_argv(chain: Sequence[ImageRef], address: Path) -> list[str]:
    """Serve the first image of a chain for writing to one client, and end when that hangs up."""
    return [
        *(*DIES_WITH_US, "qemu-nbd", "-k", str(address)),
        *past_cache(chain[0].path, "--cache"),
        spelled(graph(chain)),
    ]


def percent(text: str) -> float | None:
    """The last progress that `qemu-img -p` printed in `text`, from 0 to 1."""
    found = PERCENT.findall(text)
    return int(found[-1][0]) / 100 + int(found[-1][1]) / 10000 if found else None


def run_tool(
    runner: ToolRunner,
    path: Path,
    argv: Sequence[str],
    *,
    timeout: float,
    accept: Sequence[int] = (0,),
    watch: Callable[[str], None] | None = None,
    inspect: bool = False,
) -> ToolResult:
    """Run qemu-img on the image `path`; `inspect` for work on headers alone, under tight limits.

    Raises `ImageBusy` when another process has it locked, OSError with ENOSPC when the space is
    used up, `ImageError` with qemu's words for anything else that it reports.
    """
    result = runner(argv, timeout=timeout, accept=(*accept, 1), watch=watch, inspect=inspect)
    if result.code in accept:
        return result
    said = " ".join(result.stderr.split())
    if "Is another process using the image" in said:
        raise ImageBusy(path, "is open in another process")
    if os.strerror(errno.ENOSPC) in said:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
    name, first = argv[len(DIES_WITH_US) :][:2] if argv[0] == DIES_WITH_US[0] else argv[:2]
    work = f"{name} {first}" if name == QEMU_IMG else name
    raise ImageError(path, f"{work} failed: {said[-400:]}")
