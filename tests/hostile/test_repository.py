"""Hostile images in a storage repository: reported, left alone, and nothing else is touched."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import uuid
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.cowutil.contract.subjects import tool
from tests.cowutil.vhd.vhd_support import open_disk
from tests.hostile.case import write_sparse
from tests.hostile.qcow2_parts import SOUND_PARTS, Parts, extension
from tests.hostile.vhd_cases import sound, utf16
from tests.support import guest
from tests.support.site import MIB, Refused, Site

ROOT = Path(__file__).parents[2]
SECRET = "forbidden"
BACKING_FORMAT = 0xE2792ACA


@dataclass
class Planted:
    """An SR with sound VDIs and hostile images. `hostile`: what scan must say, by UUID."""

    site: Site
    sr: str
    folder: Path
    sound: dict[str, bytes]
    hostile: dict[str, str] = field(default_factory=dict)

    def plant_qcow2(self, parts: Parts, problem: str, name: str | None = None) -> str:
        """Put a QCOW2 image there."""
        name = name or str(uuid.uuid4())
        write_sparse(self.folder / f"{name}.qcow2", parts.length, parts.layout())
        self.hostile[name] = problem
        return name

    def plant_vhd(self, parent: str, problem: str, name: str | None = None) -> str:
        """Put a differencing VHD there whose only locator says `parent`."""
        name = name or str(uuid.uuid4())
        base = Path(parent.replace("\\", "/")).name
        image = sound(locators=[(b"W2ru", utf16(parent), 0x1000, 512)], name=base)
        (self.folder / f"{name}.vhd").write_bytes(image)
        self.hostile[name] = problem
        return name


def backed(name: str, image_format: str = "qcow2") -> Parts:
    """A sound QCOW2 image with this backing name."""
    return SOUND_PARTS.but(
        backing=name.encode(), extensions=extension(BACKING_FORMAT, image_format.encode())
    )


@pytest.fixture
def planted(site: Site) -> Planted:
    """One SR with everything in it that no image may do."""
    sr = site.create_sr()
    folder = site.folder / "store"
    contents = {}
    for image_format in ("qcow2", "vhd", "raw"):
        vdi = site.create_vdi(sr, image_format, 4 * MIB)
        guest.write(site.chain(sr, vdi), MIB, 65536, 0x5A)
        contents[vdi] = guest.content(site.chain(sr, vdi))
    for extension_ in ("qcow2", "vhd", "raw"):
        outside = site.folder / f"{SECRET}.{extension_}"
        outside.write_bytes(bytes(MIB))
    tool("qemu-img", "create", "-q", "-f", "qcow2", str(site.folder / f"{SECRET}.qcow2"), "1M")
    found = Planted(site, sr, folder, contents)
    secret = site.folder / SECRET
    for name in (
        f"{secret}.qcow2",
        f"../{SECRET}.qcow2",
        f"file:{secret}.qcow2",
        f'json:{{"driver":"qcow2","file":{{"driver":"file","filename":"{secret}.qcow2"}}}}',
        "nbd://127.0.0.1:10809/forbidden",
    ):
        found.plant_qcow2(backed(name), "names the parent")
    found.plant_qcow2(backed(f"{SECRET}.qcow2"), "is no image of this SR")
    taken = next(iter(contents))
    found.plant_qcow2(backed(f"{taken}.qcow2", "raw"), "takes its parent")
    found.plant_qcow2(backed(f"{taken}.qcow2", "host_device"), "takes its parent")
    found.plant_qcow2(SOUND_PARTS.but(fields={"incompatible": 4}), "an external data file")
    for name in (f"..\\{SECRET}.vhd", f"{secret}.vhd", f"C:\\{SECRET}.vhd"):
        found.plant_vhd(name, "parent")
    found.plant_vhd(f".\\{SECRET}.vhd", "is no image of this SR")
    for image_format in ("qcow2", "vhd"):
        first, second, alone = (str(uuid.uuid4()) for _ in range(3))
        for name, parent in ((first, second), (second, first), (alone, alone)):
            if image_format == "qcow2":
                found.plant_qcow2(backed(f"{parent}.qcow2"), "circle", name)
            else:
                found.plant_vhd(f".\\{parent}.vhd", "circle", name)
    return found


def run_traced(planted: Planted, *commands: tuple[str, ...]) -> tuple[list[Any], str]:
    """Run commands of `sm` in one process under strace: what each said, and the trace."""
    trace = planted.site.folder / "trace"
    argv = ["strace", "-f", "-s", "4096", "-o", str(trace), "-e", "trace=%file,connect,%process"]
    program = (
        "import json, sys; from sm.cli.main import main\n"
        "for line in sys.stdin: main(['--json', *json.loads(line)]); print(flush=True)"
    )
    ended = subprocess.run(
        [*argv, sys.executable, "-c", program],
        cwd=ROOT, env=planted.site.environment, text=True, capture_output=True, check=False,
        input="\n".join(json.dumps(command) for command in commands),
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    parts = re.split(r"^\s*$", ended.stdout, flags=re.MULTILINE)
    return [json.loads(part) for part in parts if part.strip()], trace.read_text()


def assert_kept_inside(trace: str) -> None:
    """No file outside the SR that an image names was touched, no host called, no VHD given away."""
    for line in trace.splitlines():
        started = "execve(" in line
        assert SECRET not in line or started, line
        assert "AF_INET" not in line, line
        if started and "qemu" in line:
            assert ".vhd" not in line, line
            assert SECRET not in line, line
            named = "json:" in line or '"-f", "' in line or '"--blockdev", ' in line
            assert named, f"a format is left to be guessed: {line}"


def test_a_scan_reports_each_and_goes_on(planted: Planted) -> None:
    (scan, listed), trace = run_traced(planted, ("sr", "scan", planted.sr), ("vdi", "list"))
    assert_kept_inside(trace)
    assert scan["problems"].keys() == planted.hostile.keys()
    for name, problem in planted.hostile.items():
        assert problem in scan["problems"][name], (name, scan["problems"][name])
    assert set(planted.sound) <= {row["uuid"] for row in listed}


def test_nothing_can_be_done_with_one(planted: Planted) -> None:
    planted.site.sm("sr", "scan", planted.sr)
    before = {path: path.read_bytes() for path in planted.folder.glob("*-*.*")}
    hostile = list(planted.hostile)
    commands = [
        command
        for name in hostile
        for command in (
            ("vdi", "activate", name),
            ("vdi", "snapshot", name),
            ("vdi", "clone", name),
            ("vdi", "resize", name, "--size", "16MiB"),
        )
    ]
    said, trace = run_traced(planted, *commands, ("gc", "run", "--sr", planted.sr))
    assert_kept_inside(trace)
    for command, answer in zip(commands, said[: len(commands)], strict=True):
        assert "error" in answer, (command, answer)
    assert {path: path.read_bytes() for path in planted.folder.glob("*-*.*")} == before


def test_the_others_work_on(planted: Planted) -> None:
    site = planted.site
    site.sm("sr", "scan", planted.sr)
    commands: list[tuple[str, ...]] = [
        command
        for name in planted.sound
        for command in (
            ("vdi", "activate", name),
            ("vdi", "deactivate", name),
            ("vdi", "check", name),
            ("vdi", "resize", name, "--size", "6MiB"),
        )
    ]
    commands.append(("vdi", "create", "--sr", planted.sr, "--size", "4MiB"))
    said, trace = run_traced(planted, *commands)
    assert_kept_inside(trace)
    refused = [each for each in zip(commands, said, strict=True) if "error" in str(each[1])]
    assert not refused
    for name, data in planted.sound.items():
        assert guest.content(site.chain(planted.sr, name)) == data.ljust(6 * MIB, b"\0")


def test_what_may_be_needed_is_kept_until_the_image_is_gone(planted: Planted) -> None:
    """Whose parent cannot be read may sit on any image: none goes away, though all can be used."""
    site = planted.site
    site.sm("sr", "scan", planted.sr)
    images = {name: site.chain(planted.sr, name)[0] for name in planted.sound}
    cow = [name for name, image in images.items() if image.format != "raw"]
    for name in cow:
        copy = site.snapshot(name)
        assert guest.content(site.chain(planted.sr, copy)) == planted.sound[name]
        site.delete(copy)
    before = site.images(planted.sr)
    report = site.sm("gc", "run", "--sr", planted.sr)
    assert report["done"] == []
    assert {each["code"] for each in report["waiting"]} == {"damaged-tree"}
    assert site.images(planted.sr) == before
    for name in planted.hostile:
        for path in planted.folder.glob(f"{name}.*"):
            path.unlink()
    rows = site.sm("vdi", "list", "--sr", planted.sr)
    away = [row["uuid"] for row in rows if row["uuid"] in planted.hostile]
    while away:
        lost = away.pop()
        try:
            site.sm("vdi", "forget", lost)
        except Refused:  # what is above it goes first
            away.insert(0, lost)
    assert site.sm("sr", "scan", planted.sr)["problems"] == {}
    assert site.sm("gc", "run", "--sr", planted.sr)["remaining"] == 0
    assert site.images(planted.sr) == set(planted.sound)
    for name, data in planted.sound.items():
        assert guest.content(site.chain(planted.sr, name)) == data


@pytest.mark.parametrize("target", ["/dev/zero", f"{SECRET}.qcow2", "."])
def test_a_link_is_no_image(site: Site, target: str) -> None:
    sr = site.create_sr()
    (site.folder / f"{SECRET}.qcow2").write_bytes(bytes(MIB))
    place = site.folder / "store" / f"{uuid.uuid4()}.qcow2"
    place.symlink_to(site.folder / target)
    assert site.sm("sr", "scan", sr)["images"] == 0
    assert place.is_symlink()


def test_a_guest_can_write_any_header_into_its_disk(site: Site) -> None:
    """The format is what the name of the file says, never what its first bytes look like."""
    sr = site.create_sr()
    secret = site.folder / f"{SECRET}.qcow2"
    tool("qemu-img", "create", "-q", "-f", "qcow2", str(secret), "1M")
    header = backed(str(secret)).header()
    child = bytes(sound(locators=[(b"W2ru", utf16(f"{site.folder}\\x"), 0x1000, 512)]))
    contents = {}
    for image_format in ("raw", "qcow2", "vhd"):
        vdi = site.create_vdi(sr, image_format, 4 * MIB)
        path = site.chain(sr, vdi)[0].path
        disk = bytearray(4 * MIB)
        for at in range(0, 2 * MIB, 65536):
            disk[at : at + len(header)] = header
        disk[2 * MIB : 2 * MIB + len(child)] = child
        disk[-512:] = child[-512:]
        _write_disk(path, image_format, bytes(disk))
        contents[vdi] = bytes(disk)
    planted = Planted(site, sr, site.folder / "store", contents)
    commands = [("sr", "scan", sr), *(("vdi", "check", name) for name in contents)]
    (scan, *checks), trace = run_traced(planted, *commands)
    assert scan["problems"] == {}
    assert not [answer for answer in checks if "error" in answer]
    assert_kept_inside(trace)
    for name, data in contents.items():
        chain = site.chain(sr, name)
        assert guest.content(chain) == data
        assert site.repository(sr).scan().infos[name].virtual_size == 4 * MIB
        assert site.repository(sr).scan().infos[name].parent is None


def _write_disk(path: Path, image_format: str, disk: bytes) -> None:
    """Fill a whole disk with what a guest has written, by its format's usual writer."""
    if image_format == "raw":
        path.write_bytes(disk)
    elif image_format == "qcow2":
        source = path.with_name("guest.bin")
        source.write_bytes(disk)
        given = ["--image-opts", "--target-image-opts", f"driver=raw,file.filename={source}"]
        tool("qemu-img", "convert", "-n", *given, f"driver=qcow2,file.filename={path}")
        source.unlink()
    else:
        opened = open_disk([path])
        opened.pwrite(0, disk)
        opened.close()
