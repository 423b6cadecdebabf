"""The text in which LVM keeps its metadata, taken apart. Pure.

Sections in braces, assignments of numbers, strings and lists, comments after `#`. The format is
that of the files in /etc/lvm/backup, which LVM documents in lvm.conf(5).
"""

from __future__ import annotations

import re
from collections.abc import Iterator

Value = int | str | list["int | str"]
Section = dict[str, "Value | Section"]

_TOKEN = re.compile(
    r"""(?P<word>[A-Za-z0-9_.+-]+)
    |"(?P<string>(?:[^"\\]|\\.)*)"
    |(?P<mark>[{}=\[\],])
    |(?:[ \t\r\n\0]|\#[^\n]*)+
    |(?P<strange>.)""",
    re.VERBOSE | re.DOTALL,
)
_ESCAPE = re.compile(r"\\(.)")
_NUMBER = re.compile(r"-?[0-9]+")

Token = tuple[str, str]
"""The kind of a token, `word`, `string` or `mark`, and its text."""


def parse(text: str) -> Section:
    """The sections and values of a text; ValueError for one that LVM does not write."""
    return _section(_tokens(text), outermost=True)


def section(parent: Section, name: str) -> Section:
    """A section inside another; an empty one where it is missing."""
    found = parent.get(name, {})
    if not isinstance(found, dict):
        raise ValueError(f"{name} is not a section")
    return found


def number(parent: Section, name: str) -> int:
    """A value that must be a number."""
    found = parent.get(name)
    if not isinstance(found, int):
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


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        if match.lastgroup == "strange":
            raise ValueError(f"{match[0]!r} at {match.start()}")
        if match.lastgroup is not None:
            yield match.lastgroup, match[match.lastgroup]


def _section(tokens: Iterator[Token], *, outermost: bool = False) -> Section:
    found: Section = {}
    for kind, name in tokens:
        if (kind, name) == ("mark", "}") and not outermost:
            return found
        if kind == "mark":
            raise ValueError(f"{name!r} where a name should be")
        following = next(tokens, None)
        if following == ("mark", "{"):
            found[name] = _section(tokens)
        elif following == ("mark", "="):
            found[name] = _value(tokens)
        else:
            raise ValueError(f"nothing is said of {name!r}")
    if not outermost:
        raise ValueError("the text ends inside a section")
    return found


def _value(tokens: Iterator[Token]) -> Value:
    token = next(tokens, None)
    if token != ("mark", "["):
        return _scalar(token)
    found: list[int | str] = []
    for each in tokens:
        if each == ("mark", "]"):
            return found
        if each != ("mark", ","):
            found.append(_scalar(each))
    raise ValueError("the text ends inside a list")


def _scalar(token: Token | None) -> int | str:
    if token is None or token[0] == "mark":
        raise ValueError(f"{token} where a value should be")
    kind, text = token
    if kind == "string":
        return _ESCAPE.sub(r"\1", text)
    return int(text) if _NUMBER.fullmatch(text) else text
