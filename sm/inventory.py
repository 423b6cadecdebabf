"""Which host this is to XAPI: a line of its inventory file, which holds `KEY='value'` lines."""

from __future__ import annotations

from pathlib import Path

KEY = "INSTALLATION_UUID"
MAXIMUM_BYTES = 1 << 20


def installation_uuid(path: Path) -> str | None:
    """The UUID of this host, if the file tells. Raises OSError when it cannot be read."""
    with path.open(encoding="utf-8", errors="replace") as inventory:
        content = inventory.read(MAXIMUM_BYTES)
    for line in content.splitlines():
        key, _, value = line.partition("=")
        found = value.strip().strip("'\"")
        if key.strip() == KEY and found:
            return found
    return None
