"""Which host this is: a line of XAPI's inventory file, which holds `KEY='value'` lines."""

from __future__ import annotations

from pathlib import Path

from sm.pool.errors import PoolHostUnknown

KEY = "INSTALLATION_UUID"
MAXIMUM_BYTES = 1 << 20


def installation_uuid(path: Path) -> str:
    """The UUID of this host; raises `PoolHostUnknown` when the file does not tell."""
    try:
        with path.open(encoding="utf-8", errors="replace") as inventory:
            content = inventory.read(MAXIMUM_BYTES)
    except OSError as error:
        raise PoolHostUnknown(f"{path}: {error.strerror}") from error
    for line in content.splitlines():
        key, _, value = line.partition("=")
        found = value.strip().strip("'\"")
        if key.strip() == KEY and found:
            return found
    raise PoolHostUnknown(f"{path} has no {KEY}")
