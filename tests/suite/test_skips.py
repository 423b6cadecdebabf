"""What may be skipped is written down, with its reason, and nothing else is."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "contributing.md"
SKIPPING = {"skip", "skipif", "xfail", "importorskip", "SkipTest", "skipIf", "skipUnless"}
PASSED_ON = {"tests/support/namespaces.py"}
"""Passes on to the session what a test in a fork said: what is skipped is skipped there."""

ROW = re.compile(r"^\| `(tests/[^`]+)` \|", re.MULTILINE)


def skips(source: str) -> Iterator[str]:
    """The skips of a module, each by the innermost function it is in, or marks."""

    def within(node: ast.AST, function: str) -> Iterator[str]:
        for child in ast.iter_child_nodes(node):
            name = getattr(child, "name", "") if isinstance(child, FUNCTIONS) else function
            skipping = isinstance(child, ast.Attribute) and child.attr in SKIPPING
            # `pytest.skip.Exception` is what is caught.
            if skipping and not (isinstance(node, ast.Attribute) and node.attr == "Exception"):
                yield function
            if isinstance(child, ast.ImportFrom):
                yield from (function for each in child.names if each.name in SKIPPING)
            yield from within(child, name)

    yield from within(ast.parse(source), "")


FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)


def in_the_tree() -> set[str]:
    """All skips of the tests, as the page names them."""
    found = set()
    for path in TESTS.rglob("*.py"):
        name = str(path.relative_to(TESTS.parent))
        if name not in PASSED_ON:
            found |= {f"{name}::{function}" for function in skips(path.read_text())}
    return found


def listed() -> set[str]:
    """Those of the page's table."""
    section = PAGE.read_text().split("\n## Skips\n", 1)[1].split("\n## ", 1)[0]
    return set(ROW.findall(section))


def test_every_skip_is_listed_and_every_listed_one_is_there() -> None:
    assert in_the_tree() == listed()


def test_skips_of_all_kinds_are_found() -> None:
    source = """
from unittest import SkipTest
mark = pytest.mark.skipif(True, reason="")
@pytest.mark.xfail
def one(): pass
def two():
    try:
        pytest.importorskip("x")
    except pytest.skip.Exception:
        self.skipTest
    def inner():
        pytest.skip("")
"""
    assert sorted(skips(source)) == ["", "", "inner", "one", "two"]


def test_rows_are_read() -> None:
    assert ROW.findall("| `tests/a.py::b` | x | y |\n| where | when |\n") == ["tests/a.py::b"]
