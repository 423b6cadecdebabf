"""Reading `sm.conf`: which file and line says what. What is not understood is refused by both."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from sm.durable import BadFile, read_file
from sm.errors import InvalidArgument

SECTION = "sm"

_COMMENT = re.compile(r"(?:^|\s)[;#].*")
_PAIR = re.compile(r"([^=:\s]+)\s*[=:]\s*(.*)")


@dataclass(frozen=True, slots=True)
class _Said:
    value: str
    place: str


class Options(Mapping[str, str]):
    """What the files say. A key that nobody asked for in the end is one that nobody knows."""

    def __init__(self, said: Mapping[str, _Said]) -> None:
        self._said = said
        self._asked: set[str] = set()

    def __getitem__(self, key: str) -> str:
        self._asked.add(key)
        return self._said[key].value

    def __iter__(self) -> Iterator[str]:
        return iter(self._said)

    def __len__(self) -> int:
        return len(self._said)

    def place(self, key: str) -> str:
        """File and line of a key, for an error about its value."""
        return self._said[key].place if key in self._said else "sm.conf"

    def require_known(self) -> None:
        """Raise `InvalidArgument` for a key that was not asked for until now."""
        for key, said in self._said.items():
            if key not in self._asked:
                raise InvalidArgument(f"{said.place}: there is no setting {key!r}")


def read(paths: Iterable[Path]) -> Options:
    """The settings of those of the files that exist; a later file counts more.

    Raises `InvalidArgument`, with file and line.
    """
    said: dict[str, _Said] = {}
    for path in paths:
        try:
            content = read_file(path)
        except FileNotFoundError:
            continue
        except BadFile as error:
            raise InvalidArgument(f"{path} cannot be read: {error}") from error
        said.update(_parse(path, content))
    return Options(said)


def _parse(path: Path, content: bytes) -> dict[str, _Said]:
    said: dict[str, _Said] = {}
    in_section = False
    for number, raw in enumerate(content.splitlines(), start=1):
        place = f"{path}, line {number}"
        try:
            line = _COMMENT.sub("", raw.decode("utf-8")).strip()
        except UnicodeDecodeError as error:
            raise InvalidArgument(f"{place}: no UTF-8") from error
        if not line:
            continue
        if line.startswith("["):
            if line != f"[{SECTION}]":
                raise InvalidArgument(f"{place}: there is no section {line[:50]}, but [{SECTION}]")
            in_section = True
            continue
        pair = _PAIR.fullmatch(line)
        if pair is None or not in_section:
            wanted = "KEY = VALUE" if in_section else f"[{SECTION}]"
            raise InvalidArgument(f"{place}: {line[:50]!r} where {wanted} should be")
        key, value = pair[1].lower(), pair[2]
        if key in said:
            raise InvalidArgument(f"{place}: {key} is set already in {said[key].place}")
        said[key] = _Said(value, place)
    return said
