"""UUIDs as text that comes from outside, and becomes part of a path."""

from __future__ import annotations

import uuid

from sm.errors import InvalidArgument


def require_uuid(text: str) -> None:
    """Refuse what is not a UUID in its usual lower-case form."""
    try:
        canonical = str(uuid.UUID(text))
    except ValueError:
        canonical = None
    if text != canonical:
        raise InvalidArgument(f"{text!r} is not a UUID")
