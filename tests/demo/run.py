"""The demo: real file systems on virtual disks, through snapshots, deletion and collection.

usage: run.py        makes everything in a temporary folder, and removes it
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from sm.cli.sizes import show_size  # noqa: E402
from sm.cowutil.base import ImageRef  # noqa: E402
from tests.demo import active, disk, filesystem  # noqa: E402

SM = Path(sys.executable).with_name("sm")
MIB = 1 << 20
SIZE = 96 * MIB
SOURCES = ("/usr/share/common-licenses", "/usr/share/doc/base-files", "/usr/lib/python3")
SOURCE_LIMIT = 24 * MIB
FORMATS = ("qcow2", "vhd")


@dataclass
class Kept:
    """What a disk must read as: its checksum, and those of the files inside."""

    whole: str
    files: dict[str, str]


@dataclass
class Demo:
    """One run, in one temporary folder."""

    folder: Path
    expected: dict[str, Kept] = field(default_factory=dict)
    broken: list[str] = field(default_factory=list)
    copied: int = 0
    freed: int = 0

    def sm(self, *arguments: str, show: bool = True) -> Any:
        """Run a command for its JSON, showing it as a person would type it."""
        if show:
            say(f"  $ sm {' '.join(arguments)}")
        environment = {**os.environ, "SM_ROOT": str(self.folder / "root")}
        ended = subprocess.run(
            [SM, "--json", *arguments], env=environment, capture_output=True, text=True, check=False
        )
        document = json.loads(ended.stdout)
        if ended.returncode != 0:
            sys.exit(f"the command failed: {document}")
        return document

    @staticmethod
    def say(text: str) -> None:
        """Tell what is going on."""
        say(text)

    def tree(self, *of: str) -> None:
        """Show the trees as the command line draws them."""
        self.show("vdi", "tree", *of)

    def show(self, *arguments: str) -> None:
        """Run a command for what it tells people."""
        say(f"  $ sm {' '.join(arguments)}")
        environment = {**os.environ, "SM_ROOT": str(self.folder / "root")}
        told = subprocess.run(
            [SM, *arguments], env=environment, capture_output=True, text=True, check=True
        )
        for line in told.stdout.splitlines():
            say(f"    {line}")

    def collect(self, sr: str) -> None:
        """Run the collector and tell what it did."""
        report = self.sm("gc", "run", "--sr", sr)
        for step in report["done"]:
            self.copied += step["bytes_copied"]
            self.freed += step["bytes_freed"]
            through = " by the process that serves the disk" if step["through"] else ""
            say(
                f"    {step['action']}: {len(step['images'])} images gone,"
                f" {show_size(step['bytes_copied'])} copied{through},"
                f" {show_size(step['bytes_freed'])} given back, {step['seconds']:.2f} s"
            )
        say(f"    remaining work: {report['remaining']}")
        if report["remaining"]:
            self.broken.append("the collector left work undone")

    def chain(self, vdi: str) -> list[ImageRef]:
        """The images of a disk, uppermost first."""
        found = []
        uuid: str | None = vdi
        while uuid:
            shown = self.sm("vdi", "show", uuid, show=False)
            found.append(ImageRef(Path(shown["path"]), shown["format"]))
            uuid = shown["parent"]
        return found

    def expect(self, vdi: str, image: Path) -> None:
        """Note what a disk holds now."""
        scratch = self.folder / "unpacked"
        self.expected[vdi] = Kept(digest(image), filesystem.checksums(image, scratch))
        shutil.rmtree(scratch)

    def verify(self, vdi: str) -> None:
        """Read a disk as its guest would, and compare everything."""
        image, scratch = self.folder / "read.img", self.folder / "unpacked"
        kept = self.expected[vdi]
        disk.read(self.chain(vdi), SIZE, image)
        same = digest(image) == kept.whole
        sound = filesystem.is_sound(image)
        files = filesystem.checksums(image, scratch) == kept.files
        shutil.rmtree(scratch)
        image.unlink()
        good = same and sound and files
        name = self.sm("vdi", "show", vdi, show=False)["name"]
        say(
            f"  {vdi[:8]} {name:<16} disk checksum {word(same)}, file system"
            f" {'clean' if sound else 'DAMAGED'}, {len(kept.files)} files {word(files)}"
        )
        if not good:
            self.broken.append(f"{vdi} ({name})")


def word(good: bool) -> str:
    """How a check is told."""
    return "same" if good else "DIFFERENT"


def say(text: str) -> None:
    """Print at once, so that the demo can be watched."""
    print(text, flush=True)


def digest(path: Path) -> str:
    """SHA-256 of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def gather(folder: Path) -> None:
    """Copy files of this machine, up to a limit."""
    folder.mkdir()
    total = 0
    for source in SOURCES:
        for path in sorted(Path(source).rglob("*")):
            if not path.is_file() or path.is_symlink() or total > SOURCE_LIMIT:
                continue
            target = folder / path.relative_to("/")
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
            total += path.stat().st_size


def show_format(demo: Demo, sr: str, image_format: str, source: Path) -> None:
    """One disk's life: file system, four snapshots with changes between, three deleted."""
    say(f"\n== A disk in {image_format.upper()} with a real ext4 file system")
    created = ("--size", "96MiB", "--format", image_format, "--name", f"web-{image_format}")
    vdi = demo.sm("vdi", "create", "--sr", sr, *created)["uuid"]
    current, previous = demo.folder / "guest.img", demo.folder / "guest.old"
    previous.write_bytes(b"")
    os.truncate(previous, SIZE)
    filesystem.make(current, source, SIZE)
    written = disk.write(demo.chain(vdi)[0], current, disk.changed_ranges(previous, current))
    say(f"  the guest writes its file system: {show_size(written)}")

    snapshots = []
    for day in ("monday", "tuesday", "wednesday", "thursday"):
        snapshot = demo.sm("vdi", "snapshot", vdi, "--name", f"{day}-{image_format}")["uuid"]
        demo.expect(snapshot, current)
        snapshots.append(snapshot)
        shutil.copyfile(current, previous)
        change = demo.folder / f"{day}.bin"
        change.write_bytes(os.urandom(3 * MIB))
        filesystem.add_file(current, change, f"{day}.bin")
        if day == "wednesday":
            filesystem.remove_file(current, "monday.bin")
        written = disk.write(demo.chain(vdi)[0], current, disk.changed_ranges(previous, current))
        say(f"  the guest works on {day}: {show_size(written)} written")
    demo.expect(vdi, current)

    say("\n  Three of the four snapshots are no longer wanted:")
    for snapshot in (snapshots[0], snapshots[1], snapshots[3]):
        name = demo.sm("vdi", "show", snapshot, show=False)["name"]
        demo.sm("vdi", "delete", name)
        del demo.expected[snapshot]
    current.unlink()
    previous.unlink()


def main() -> int:
    """Run the demo; the exit status is 0 when every disk reads as before."""
    filesystem.use_system_tools()
    folder = Path(tempfile.mkdtemp(prefix="sm-demo-"))
    demo = Demo(folder)
    try:
        say("== A storage repository in a folder")
        location = f"location={folder / 'images'}"
        sr = demo.sm("sr", "create", "--name", "demo", "--device-config", location)["uuid"]
        source = folder / "files"
        gather(source)
        for image_format in FORMATS:
            show_format(demo, "demo", image_format, source)

        say("\n== Before the collector")
        demo.tree("--sr", "demo")
        demo.show("gc", "plan", "--sr", "demo")
        say("\n== The collector deletes and merges what no disk needs")
        demo.collect("demo")
        say("\n== After the collector")
        demo.tree("--sr", "demo")
        demo.show("gc", "history", "--sr", "demo")
        demo.show("doctor")

        say("\n== Every surviving disk, read again")
        for vdi in demo.expected:
            demo.verify(vdi)
        for vdi in list(demo.expected):
            demo.sm("vdi", "delete", vdi, show=False)
        for image_format in FORMATS:
            active.show(demo, "demo", image_format)
        demo.sm("sr", "destroy", sr, show=False)
    finally:
        shutil.rmtree(folder)
    say(f"\n{show_size(demo.copied)} copied, {show_size(demo.freed)} given back.")
    if demo.broken:
        say(f"NOT ALL HELD: {'; '.join(demo.broken)}")
        return 1
    say(f"All held: {len(demo.expected) + len(FORMATS)} disks read exactly as they should.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
