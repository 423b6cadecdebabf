"""The filter language that the small XAPI understands, on which the listing tests rely."""

import pytest

from tests.pool.expressions import BadExpression, parse

RECORD = {"SR": "a", "host": "b", "managed": True, "size": "5", "odd": 'x" or "y'}


@pytest.mark.parametrize(
    ("text", "matches"),
    [
        ('field "SR" = "a"', True),
        ('field "SR"="b"', False),
        ('field "managed" = "true"', True),
        ('field "size" = "5"', True),
        ('field "SR" = "a" and field "host" = "a"', False),
        ('field "SR" = "b" or field "host" = "b"', True),
        ('not field "SR" = "a"', False),
        ('not (field "SR" = "b" or field "SR" = "c") and field "host" = "b"', True),
        ('field "SR" = "a" or field "SR" = "b" and field "host" = "c"', True),
        ('(field "SR" = "a" or field "SR" = "b") and field "host" = "c"', False),
        (r'field "odd" = "x\" or \"y"', True),
    ],
)
def test_what_matches(text: str, matches: bool) -> None:
    assert parse(text)(RECORD) is matches


@pytest.mark.parametrize(
    "text",
    [
        "",
        "SR",
        'field "SR" = a',
        'field "SR" = "a" and',
        '(field "SR" = "a"',
        'field "SR" = "a")',
        'field "SR" = "a',
        'field "SR" = "a" field "SR" = "a"',
    ],
)
def test_what_is_refused(text: str) -> None:
    with pytest.raises(BadExpression):
        parse(text)
