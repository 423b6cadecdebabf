"""Reading small JSON documents that others may have written: everything has the type that it must.

Whatever is wrong is a ValueError that says what; nothing is guessed and nothing is passed over.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

Types = tuple[type, ...]
"""The types that a member may have; a bool is no int here."""

_NOTHING: Mapping[str, Types] = {}


def document(content: bytes | str) -> dict[str, Any]:
    """The members of a JSON object. ValueError for anything else, also where it is nested too deep.

    A member that is there twice, and a number that JSON does not know, are refused as well.
    """
    try:
        found = json.loads(content, object_pairs_hook=_once, parse_constant=_no_number)
    except RecursionError as error:
        raise ValueError("nested too deep") from error
    if not isinstance(found, dict):
        raise ValueError(f"no object, but {_kind(found)}")
    return found


def members(
    content: bytes | str, required: Mapping[str, Types], optional: Mapping[str, Types] = _NOTHING
) -> dict[str, Any]:
    """The members of a JSON object, which has all that are `required` and no unknown ones."""
    return checked(document(content), required, optional)


def checked(
    found: object, required: Mapping[str, Types], optional: Mapping[str, Types] = _NOTHING
) -> dict[str, Any]:
    """The same of an object that is part of a document."""
    if not isinstance(found, dict):
        raise ValueError(f"no object, but {_kind(found)}")
    allowed = {**required, **optional}
    for name in required:
        if name not in found:
            raise ValueError(f"{name} is missing")
    for name, value in found.items():
        if name not in allowed:
            raise ValueError(f"{name!r} is unknown")
        if type(value) not in allowed[name]:
            raise ValueError(f"{name} is {_kind(value)}")
    return found


def texts(found: object) -> tuple[str, ...]:
    """A list of texts."""
    if not isinstance(found, list) or not all(type(each) is str for each in found):
        raise ValueError(f"no list of texts, but {_kind(found)}")
    return tuple(found)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a member is there twice")
    return found


def _no_number(text: str) -> Any:
    raise ValueError(f"{text} is no number")


def _kind(value: object) -> str:
    return f"of type {type(value).__name__}"
