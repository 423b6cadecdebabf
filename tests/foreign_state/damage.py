"""Ways in which a file of state can be no such file, and what goes on beside one."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.support.site import MIB, Site

Damage = Callable[[Path], None]


def _content(content: bytes) -> Damage:
    return lambda path: _write(path, content)


def _write(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def _link(path: Path) -> None:
    """To a file with a right content, elsewhere."""
    elsewhere = path.with_name(f"elsewhere-{path.name}.kept")
    elsewhere.write_bytes(path.read_bytes() if path.exists() else b"{}")
    path.unlink(missing_ok=True)
    path.symlink_to(elsewhere)


def _loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def _folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def _pipe(path: Path) -> None:
    """Whoever opens it waits, if nothing is done about that."""
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _huge(path: Path) -> None:
    """More than memory has, and all of it a hole."""
    path.write_bytes(b"")
    os.truncate(path, 1 << 40)


DAMAGES: Mapping[str, Damage] = {
    "empty": _content(b""),
    "no-json": _content(b"?"),
    "no-utf8": _content(b"\xff\xfe"),
    "list": _content(b"[]"),
    "empty-object": _content(b"{}"),
    "member-missing": _content(b'{"operation": "coalesce", "key": "x"}'),
    "member-more": _content(
        b'{"operation":"coalesce","key":"x","stage":"copy","owner":"{}","data":{},"extra":1}'
    ),
    "wrong-types": _content(
        b'{"operation":["coalesce"],"key":1,"stage":{},"owner":null,"data":"x"}'
    ),
    "deep": _content(b"[" * 200_000),
    "long-number": _content(b'{"operation": ' + b"9" * 10_000 + b"}"),
    "link": _link,
    "loop": _loop,
    "folder": _folder,
    "pipe": _pipe,
    "huge": _huge,
}


def codes(site: Site, *options: str) -> dict[str, str]:
    """What the doctor finds: by code, the command that mends it."""
    status, text = site.run("--json", "doctor", *options)
    found: list[dict[str, Any]] = json.loads(text)["findings"]
    assert status == (4 if found else 0)
    return {each["code"]: each["mend"] for each in found}


def everything_works(site: Site, sr: str, disk: str) -> None:
    """Each kind of command on a disk, as an administrator gives it."""
    assert disk in {each["uuid"] for each in site.sm("vdi", "list")}
    site.sm("sr", "scan", sr)
    site.activate(disk)
    copy = site.snapshot(disk)
    site.deactivate(disk)
    site.sm("vdi", "resize", disk, "--size", str(16 * MIB))
    site.delete(copy)
    new = site.create_vdi(sr, "qcow2")
    site.delete(new)
    assert site.run("gc", "run", "--sr", sr)[0] == 0
    assert site.run("gc", "status")[0] == 0
    assert copy not in site.images(sr)
