"""Rules of the tree that no tool checks."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from sm.cowutil.registry import FORMATS

ROOT = Path(__file__).resolve().parents[2]
OUTSIDE_FORMATS = [
    path
    for folder in ("sm", "drivers", "gc")
    for path in sorted((ROOT / folder).rglob("*.py"))
    if not path.resolve().is_relative_to(ROOT / "cowutil")
]


def names_in(path: Path) -> set[str]:
    """All strings of a module that are code, not documentation."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    return {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in documentation
    }


@pytest.mark.parametrize("path", OUTSIDE_FORMATS, ids=lambda path: path.name)
def test_only_the_registry_knows_a_format_by_name(path: Path) -> None:
    words = {word for text in names_in(path) for word in text.replace(",", " ").split()}
    assert not words & set(FORMATS)


def test_processes_start_in_one_place() -> None:
    starters = {
        path.relative_to(ROOT)
        for folder in ("sm", "drivers", "gc", "cowutil")
        for path in (ROOT / folder).rglob("*.py")
        if "import subprocess" in path.read_text(encoding="utf-8")
    }
    assert {path.name for path in starters} == {"process.py"}
