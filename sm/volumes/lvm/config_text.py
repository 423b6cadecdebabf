"""The text in which LVM keeps its metadata, taken apart. Pure.

Sections in braces, assignments of numbers, strings and lists, comments after `#`; each section and
each assignment begins a line, and a string ends on its line. The format is that of the files in
/etc/lvm/backup. It becomes JSON by a few substitutions, which is many times as fast as looking at
one word after the other.
"""

from __future__ import annotations

import json
import re
from typing import Any

Section = dict[str, Any]

_PLAIN_COMMENT = re.compile(r'#[^"\n]*$', re.MULTILINE)
_COMMENT = re.compile(r'("(?:[^"\\\n]|\\.)*")|#[^\n]*')
_NAME = re.compile(r"\n[ \t]*([A-Za-z0-9_.+-]+)[ \t]*(?:=|(\{))")
_FIRST = re.compile(r"\{(\s*\n),")


def parse(text: str) -> Section:
    """The sections and values of a text; ValueError for one that LVM does not write."""
    # Nearly all comments are seen to be some without a look at strings: no quote follows.
    plain = _PLAIN_COMMENT.sub("", text.rstrip("\0"))
    if "#" in plain:
        plain = _COMMENT.sub(r"\1", plain)
    # A comma before each name, and the end of a line, which no string has, before the comma.
    marked = _NAME.sub(r'\n,"\1":\2', f"\n{plain}")
    try:
        found = json.loads(_FIRST.sub(r"{\1", f"{{{marked}}}"))
    except RecursionError as error:
        raise ValueError("sections in sections without an end") from error
    if not isinstance(found, dict):
        raise ValueError("it has no sections")
    return found


def section(parent: Section, name: str) -> Section:
    """A section inside another; an empty one where it is missing."""
    found = parent.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not a section")
    return found


def number(parent: Section, name: str) -> int:
    """A value that must be a number."""
    found = parent.get(name)
    if not isinstance(found, int) or isinstance(found, bool):
        raise ValueError(f"{name} is not a number")
    return found


def string(parent: Section, name: str) -> str:
    """A value that must be a string."""
    found = parent.get(name)
    if not isinstance(found, str):
        raise ValueError(f"{name} is not a string")
    return found


def strings(parent: Section, name: str) -> tuple[str, ...]:
    """A value that is a list of strings; empty where it is missing."""
    found = parent.get(name, [])
    if not isinstance(found, list):
        raise ValueError(f"{name} is not a list")
    return tuple(str(each) for each in found)
