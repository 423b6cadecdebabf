"""Finding an object by what a person types: its UUID, a unique beginning of it, or its name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

from sm.errors import InvalidArgument

Found = TypeVar("Found")


def pick(text: str, known: Iterable[tuple[str, str, Found]]) -> Found | None:
    """The object of (uuid, name, object) that `text` means; None when there is none.

    Raises `InvalidArgument` with the candidates when it could mean several.
    """
    candidates = list(known)
    for uuid, _, found in candidates:
        if uuid == text:
            return found
    named = [(uuid, name, found) for uuid, name, found in candidates if name and name == text]
    begun = [(uuid, name, found) for uuid, name, found in candidates if uuid.startswith(text)]
    matches = named or begun
    if not text or len(matches) > 1:
        listed = ", ".join(f"{uuid} ({name})" if name else uuid for uuid, name, _ in matches)
        raise InvalidArgument(f"{text!r} may mean several: {listed}")
    return matches[0][2] if matches else None
