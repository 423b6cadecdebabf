"""The text of LVM's metadata, taken apart: what LVM writes, and what it never would."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as some

from sm.volumes.lvm import config_text

NAMES = some.text("abcXYZ019_.+-", min_size=1, max_size=8)
STRINGS = some.text('ab #"\\{}=[],;', max_size=12)
NUMBERS = some.integers(0, 1 << 64)
VALUES = some.one_of(NUMBERS, STRINGS, some.lists(some.one_of(NUMBERS, STRINGS), max_size=3))
SECTIONS: some.SearchStrategy[dict[str, Any]] = some.recursive(
    some.dictionaries(NAMES, VALUES, max_size=4),
    lambda inner: some.dictionaries(NAMES, some.one_of(VALUES, inner), max_size=4),
    max_leaves=12,
)
COMMENTS = some.one_of(some.just(""), some.text('ab #"\\{}=[],;', max_size=8).map("\t# {}".format))


def written(content: dict[str, Any], comment: str, indent: str = "") -> str:
    """As LVM writes it, with a comment behind each line that may have one."""
    lines = []
    for name, value in content.items():
        if isinstance(value, dict):
            lines += [f"{indent}{name} {{{comment}", written(value, comment, f"{indent}\t")]
            lines += [f"{indent}}}", ""]
        elif isinstance(value, list):
            several = f",{comment}\n{indent}\t".join(map(_value, value))
            lines.append(f"{indent}{name} = [\n{indent}\t{several}\n{indent}]{comment}")
        else:
            lines.append(f"{indent}{name} = {_value(value)}{comment}")
    return "\n".join(lines)


def _value(value: int | str) -> str:
    if isinstance(value, int):
        return str(value)
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


@given(SECTIONS, COMMENTS)
def test_what_is_written_is_read(content: dict[str, Any], comment: str) -> None:
    """Whatever strings and comments look like."""
    text = f"# Generated\n{written(content, comment)}\n\n"
    assert config_text.parse(text) == content
    assert config_text.parse(f"{text}\0") == content


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", {}),
        ("# nothing", {}),
        ('# a "word" here\na = 1', {"a": 1}),
        ('a = "b # c"\t# d', {"a": "b # c"}),
        ('a = "b # c"\t# "d"', {"a": "b # c"}),
        ('a = "b \\" # c"', {"a": 'b " # c'}),
        ("a {\n}\nb {\nc = []\n}", {"a": {}, "b": {"c": []}}),
        ("a {\n\n\t# first\n\n\tb = 1\n}", {"a": {"b": 1}}),
        ('a = "b = {"\nc = "\\\\"', {"a": "b = {", "c": "\\"}),
    ],
)
def test_corners(text: str, found: dict[str, Any]) -> None:
    assert config_text.parse(text) == found


@pytest.mark.parametrize(
    "text",
    [
        *["a", "a =", "a {", "}", 'a = "', 'a = "b\nc"', "a = [1", "a = b", "a = 1 2"],
        *["a { b = 1 }", "a {\n" * 100_000, '"a" = 1', "[]", "a = 1}\nb {"],
    ],
)
def test_what_lvm_does_not_write_is_refused(text: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - of whatever reader found it
        config_text.parse(text)


def test_values_have_the_kind_that_is_expected() -> None:
    content = config_text.parse('n = 1\ns = "x"\nl = ["x"]\nf = 1.5\nt = true\nsection {\n}')
    assert config_text.number(content, "n") == 1
    assert config_text.string(content, "s") == "x"
    assert config_text.strings(content, "l") == ("x",)
    assert config_text.section(content, "section") == config_text.section(content, "none") == {}
    for read, name in [
        (config_text.number, "s"),
        (config_text.number, "f"),
        (config_text.number, "t"),
        (config_text.number, "none"),
        (config_text.string, "n"),
        (config_text.strings, "s"),
        (config_text.section, "n"),
    ]:
        with pytest.raises(ValueError, match=f"^{name} is not a"):
            read(content, name)
