"""The filter language of `get_all_records_where`: `field "x" = "y"`, and, or, not, parentheses."""

import re
from collections.abc import Callable, Mapping
from typing import Any

Predicate = Callable[[Mapping[str, Any]], bool]

_TOKEN = re.compile(r'\s*(?:(?P<text>"(?:[^"\\]|\\.)*")|(?P<word>\w+)|(?P<mark>[()=]))')


class BadExpression(ValueError):
    """The text is not in the language."""


def parse(text: str) -> Predicate:
    """A test for records in their wire form, as which values are compared."""
    tokens: list[str] = []
    at = 0
    text = text.strip()
    while at < len(text):
        found = _TOKEN.match(text, at)
        if found is None:
            raise BadExpression(text[at:])
        tokens.append(found.group().strip())
        at = found.end()
    predicate, rest = _either(tokens)
    if rest:
        raise BadExpression(" ".join(rest))
    return predicate


def _either(tokens: list[str]) -> tuple[Predicate, list[str]]:
    left, tokens = _both(tokens)
    while tokens[:1] == ["or"]:
        right, tokens = _both(tokens[1:])
        left = _join(any, left, right)
    return left, tokens


def _both(tokens: list[str]) -> tuple[Predicate, list[str]]:
    left, tokens = _single(tokens)
    while tokens[:1] == ["and"]:
        right, tokens = _single(tokens[1:])
        left = _join(all, left, right)
    return left, tokens


def _join(how: Callable[[list[bool]], bool], left: Predicate, right: Predicate) -> Predicate:
    return lambda record: how([left(record), right(record)])


def _single(tokens: list[str]) -> tuple[Predicate, list[str]]:
    match tokens:
        case ["not", *rest]:
            inner, rest = _single(rest)
            return lambda record: not inner(record), rest
        case ["(", *rest]:
            inner, rest = _either(rest)
            if rest[:1] != [")"]:
                raise BadExpression("a parenthesis is not closed")
            return inner, rest[1:]
        case ["field", name, "=", value, *rest] if name[0] == value[0] == '"':
            name, value = _unquoted(name), _unquoted(value)
            return lambda record: _wire_text(record[name]) == value, rest
    raise BadExpression(" ".join(tokens))


def _unquoted(text: str) -> str:
    return re.sub(r"\\(.)", r"\1", text[1:-1])


def _wire_text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
