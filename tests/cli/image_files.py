"""Chains of plain files for the tests of `sm image`, made and read by qemu and libvhdi alone."""

from __future__ import annotations

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from unittest import mock

from sm.cli.main import main
from sm.cowutil.base import ImageRef
from tests.cowutil.contract.subjects import tool
from tests.support import warm

SM = str(Path(sys.executable).with_name("sm"))
MIB = 1 << 20

NO_ROOT = {"SM_ROOT": "/proc/no-root-can-be-made-here"}
"""Not even root can make a folder there, so a command that wanted a root would fail."""


def sm(*arguments: str | Path, code: int = 0) -> Any:
    """The JSON document of `sm image`, which must end with `code`."""
    ended, text = sm_text(*arguments, "--json")
    assert ended == code, text
    return json.loads(text)


def sm_text(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and standard output of `sm image`, run in this process."""
    output = io.StringIO()
    words = ["image", *(str(each) for each in arguments)]
    with mock.patch.dict(os.environ, NO_ROOT), contextlib.redirect_stdout(output):
        return main(words), output.getvalue()


def sm_process(
    *arguments: str | Path, folder: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """`sm image` as a process of its own, with what it wrote."""
    words = ["image", *(str(each) for each in arguments)]
    return warm.program("sm", words, {**os.environ, **NO_ROOT}, folder)


def qcow2(path: Path, size: int, options: str = "", parent: ImageRef | None = None) -> ImageRef:
    """A new image, made by qemu; the parent is named by its base name."""
    more = ["-o", options] if options else []
    if parent:
        more += ["-b", parent.path.name, "-F", parent.format]
    tool("qemu-img", "create", "-q", "-f", "qcow2", *more, str(path), str(size))
    return ImageRef(path, "qcow2")


def write(image: ImageRef, *commands: str) -> None:
    """Run qemu-io commands on an image with its own parents."""
    argv = [part for each in commands for part in ("-c", each)]
    said = tool("qemu-io", "-f", image.format, *argv, str(image.path))
    assert "failed" not in said.lower(), said


def mixed_chain(folder: Path) -> list[ImageRef]:
    """Four images of different sizes and cluster sizes, uppermost first, on a raw base.

    The second is larger than the first, the third smaller than the base, whose end it hides.
    """
    base = ImageRef(folder / "base.raw", "raw")
    with base.path.open("wb") as file:
        file.write(b"\x11" * (4 * MIB + 4096))
        file.seek(5 * MIB - 4096)  # a hole in between
        file.write(b"\x12" * (2 * MIB + 1536))
    low = qcow2(folder / "low.qcow2", 5 * MIB, "cluster_size=2M", base)
    write(low, "write -P 0x21 3M 100k")
    mid = qcow2(folder / "mid.qcow2", 20 * MIB, "cluster_size=4k", low)
    write(mid, "write -P 0x31 1M 8k", "write -P 0x32 6M 1M", "write -P 0x33 15M 64k")
    write(mid, "write -z 512k 64k", "write -c -P 0x34 8M 4k", "write -P 0x35 9437184 512")
    top = qcow2(folder / "top.qcow2", 12 * MIB, "", mid)
    write(top, "write -P 0x41 1M 4k", "write -z -u 6400k 128k", "write -c -P 0x42 10M 64k")
    return [top, mid, low, base]


def chain_content(chain: Sequence[ImageRef]) -> bytes:
    """The disk as qemu reads it through the links in the images."""
    out = chain[0].path.with_name("content.raw")
    tool("qemu-img", "convert", "-f", chain[0].format, "-O", "raw", str(chain[0].path), str(out))
    try:
        return out.read_bytes()
    finally:
        out.unlink()
