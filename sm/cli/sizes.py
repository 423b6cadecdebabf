"""Sizes as people write and read them."""

from __future__ import annotations

import re

from sm.errors import InvalidArgument

_UNITS = {
    "": 1,
    "b": 1,
    "k": 1 << 10,
    "kib": 1 << 10,
    "m": 1 << 20,
    "mib": 1 << 20,
    "g": 1 << 30,
    "gib": 1 << 30,
    "t": 1 << 40,
    "tib": 1 << 40,
    "kb": 10**3,
    "mb": 10**6,
    "gb": 10**9,
    "tb": 10**12,
}
_SIZE = re.compile(r"\s*([0-9]{1,20}(?:\.[0-9]{1,20})?)\s*([a-z]*)\s*", re.IGNORECASE)


def parse_size(text: str) -> int:
    """Bytes from `10GiB`, `10G` (the same), `10GB` (decimal) or a plain number."""
    match = _SIZE.fullmatch(text)
    if match is None or match[2].lower() not in _UNITS:
        raise InvalidArgument(
            f"{text[:50]!r} is not a size; write for example 10GiB, 512M or 1048576"
        )
    return (
        int(float(match[1]) * _UNITS[match[2].lower()])
        if "." in match[1]
        else (int(match[1]) * _UNITS[match[2].lower()])
    )


def show_size(size: int) -> str:
    """Three digits and a binary unit, as in `1.5 GiB`."""
    value = float(size)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if value >= 100 or unit == "B" else f"{value:.3g} {unit}"
        value /= 1024
    return f"{value:.3g} TiB" if value < 1000 else f"{value:.0f} TiB"
