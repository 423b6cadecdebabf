"""What real tools and kernels said, kept as files; each file says which ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).with_name("recorded")


def sysfs(root: Path) -> dict[str, Any]:
    """Lay out below `root` what was below /sys; returns what was noted of it."""
    document: dict[str, Any] = json.loads((FOLDER / "sysfs.json").read_text())
    for name, content in document["files"].items():
        path = root / name.removeprefix("/sys/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes.fromhex(content))
    for name, target in document["links"].items():
        path = root / name.removeprefix("/sys/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.symlink_to(target)
    return document
