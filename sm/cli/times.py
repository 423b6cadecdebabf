"""Times and durations as people read them."""

from __future__ import annotations

from datetime import datetime

_UNITS = (("d", 86400), ("h", 3600), ("min", 60), ("s", 1))


def show_seconds(seconds: float) -> str:
    """The two largest units of a duration, as in `2 h 5 min`; below ten seconds, one decimal."""
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for index, (unit, size) in enumerate(_UNITS):
        if whole >= size:
            parts = [f"{whole // size} {unit}"]
            if index + 1 < len(_UNITS):
                smaller, smaller_size = _UNITS[index + 1]
                rest = whole % size // smaller_size
                parts += [f"{rest} {smaller}"] if rest else []
            break
    return " ".join(parts)


def show_time(time: float) -> str:
    """A moment, given in seconds since 1970, in the time of this host."""
    return datetime.fromtimestamp(time).astimezone().strftime("%Y-%m-%d %H:%M:%S")
