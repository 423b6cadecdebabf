"""Making QCOW2 images with qemu and asking qemu about them."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

MIB = 1 << 20


def qemu(*argv: str | Path) -> str:
    """Run a tool that must succeed."""
    ended = subprocess.run([str(a) for a in argv], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, (argv, ended.stderr)
    return ended.stdout


def alone(path: Path) -> str:
    """An image for qemu, without its parents."""
    driver = "host_device" if path.is_block_device() else "file"
    file = {"driver": driver, "filename": str(path)}
    return "json:" + json.dumps({"driver": "qcow2", "file": file, "backing": None})


def qemu_io(path: Path, *commands: str) -> None:
    """Run qemu-io commands on one image."""
    said = qemu("qemu-io", *(part for each in commands for part in ("-c", each)), alone(path))
    assert "failed" not in said, said


def content(path: Path) -> bytes:
    """The disk of one image as qemu reads it, without its parents."""
    with tempfile.TemporaryDirectory() as folder:
        return _converted(path, Path(folder) / "out")


def _converted(path: Path, out: Path) -> bytes:
    qemu("qemu-img", "convert", "-O", "raw", alone(path), out)
    return out.read_bytes()


def qemu_info(path: Path) -> dict[str, Any]:
    """What `qemu-img info` says."""
    found: dict[str, Any] = json.loads(
        qemu("qemu-img", "info", "-f", "qcow2", "--output=json", path)
    )
    return found


def qemu_check(path: Path) -> tuple[int, int] | None:
    """Corruptions and leaks as qemu-img counts them; None when it cannot even look."""
    argv = ["qemu-img", "check", "--output=json", alone(path)]
    ended = subprocess.run(argv, capture_output=True, text=True, check=False)
    if ended.returncode not in (0, 2, 3):
        return None
    found = json.loads(ended.stdout)
    return found.get("corruptions", 0), found.get("leaks", 0)


@dataclass(frozen=True)
class Variant:
    """One way to make an image."""

    name: str
    options: str
    compressed: bool = False
    snapshots: bool = False
    size: int = 4 * MIB

    def make(self, folder: Path) -> Path:
        """Make it, with data, zeros and holes."""
        path = folder / self.name
        if self.compressed:
            source = folder / "source.raw"
            source.write_bytes((b"qcow2 " * 700 + bytes(1000)) * (self.size // 6000))
            convert = ("qemu-img", "convert", "-c", "-f", "raw", "-O", "qcow2")
            qemu(*convert, "-o", self.options, source, path)
        else:
            create = ("qemu-img", "create", "-q", "-f", "qcow2", "-o", self.options)
            qemu(*create, path, str(self.size))
        writes = ["write -P 1 64k 300k", "write -P 2 1M 128k", "write -P 3 3000k 10k"]
        qemu_io(path, *writes, "write -z -u 2M 256k", "write -z 2500k 5k")
        if self.snapshots:
            qemu("qemu-img", "snapshot", "-c", "first", path)
            qemu_io(path, "write -P 5 0 100k", "write -P 6 1M 128k")
            qemu("qemu-img", "snapshot", "-c", "second", path)
            qemu_io(path, "write -P 7 1500k 100k", "discard 64k 64k")
        return path


VARIANTS: Sequence[Variant] = (
    Variant("plain", "compat=1.1"),
    Variant("odd_size", "compat=1.1", size=4 * MIB - 512 * 5),
    Variant("version2", "compat=0.10"),
    Variant("clusters_512", "compat=1.1,cluster_size=512"),
    Variant("clusters_4k", "compat=1.1,cluster_size=4096"),
    Variant("clusters_2m", "compat=1.1,cluster_size=2M"),
    Variant("lazy", "compat=1.1,lazy_refcounts=on"),
    Variant("extended", "compat=1.1,extended_l2=on"),
    Variant("extended_16k", "compat=1.1,extended_l2=on,cluster_size=16k"),
    Variant("full_metadata", "compat=1.1,preallocation=metadata"),
    Variant("snapshots", "compat=1.1", snapshots=True),
    Variant("refcount_1", "compat=1.1,refcount_bits=1"),
    Variant("refcount_4", "compat=1.1,refcount_bits=4,cluster_size=512", snapshots=True),
    Variant("refcount_8", "compat=1.1,refcount_bits=8"),
    Variant("refcount_32", "compat=1.1,refcount_bits=32", snapshots=True),
    Variant("refcount_64", "compat=1.1,refcount_bits=64", snapshots=True),
    Variant("deflate", "compat=1.1", compressed=True),
    Variant("deflate_4k", "compat=1.1,cluster_size=4096", compressed=True),
    Variant("deflate_2m", "compat=1.1,cluster_size=2M", compressed=True),
    Variant("deflate_extended", "compat=1.1,extended_l2=on", compressed=True),
    Variant("deflate_v2", "compat=0.10", compressed=True, snapshots=True),
)

BY_NAME = {variant.name: variant for variant in VARIANTS}
