"""Trees as values: what a chain is, what is damaged, and what damage blocks."""

from __future__ import annotations

from sm.tree import Forest, Node, Reference

PARENTS = {
    "vhd": frozenset({"vhd", "raw"}),
    "qcow2": frozenset({"qcow2", "raw"}),
    "raw": frozenset[str](),
}


def forest(*nodes: Node, references: tuple[Reference, ...] = ()) -> Forest:
    """A forest with the rules of the real formats."""
    return Forest(nodes, references, PARENTS)


def node(uuid: str, parent: str | None = None, image_format: str = "qcow2", **more: object) -> Node:
    """An image."""
    return Node(uuid, image_format, parent=parent, **more)  # type: ignore[arg-type]


def test_chain_depth_and_leaves() -> None:
    trees = forest(node("a"), node("b", "a"), node("c", "b"), node("d", "b"), node("x"))
    assert [each.uuid for each in trees.chain("c")] == ["c", "b", "a"]
    assert trees.depth("c") == 3
    assert trees.roots == ("a", "x")
    assert [each.uuid for each in trees.subtree("a")] == ["a", "b", "c", "d"]
    assert [each.uuid for each in trees.leaves_above("a")] == ["c", "d"]
    assert trees.blocked("a") is None


def test_a_missing_parent_damages_its_tree_alone() -> None:
    trees = forest(node("b", "a"), node("c", "b"), node("x"))
    assert trees.defect("b") == "its parent a is missing"
    assert trees.defect("c") is None
    assert trees.blocked("c")
    assert trees.blocked("x") is None
    assert trees.roots == ("b", "x")


def test_circles_are_found_and_end() -> None:
    trees = forest(node("a", "b"), node("b", "a"), node("c", "a"), node("s", "s"), node("x"))
    assert trees.circular == {"a", "b", "c", "s"}
    assert {root for root in trees.roots if root != "x"} == {"a", "s"}
    assert all(trees.blocked(uuid) for uuid in "abcs")
    assert trees.blocked("x") is None


def test_an_unreadable_image_blocks_all_that_it_may_need() -> None:
    bad = node("bad", image_format="vhd", problem="torn", parent_known=False)
    trees = forest(bad, node("v", image_format="vhd"), node("r", image_format="raw"), node("q"))
    assert trees.blocked("v")
    assert trees.blocked("r")
    assert trees.blocked("q") is None


def test_a_stranger_blocks_what_it_needs() -> None:
    copy = Reference("backup.qcow2", "qcow2", "b", parent_known=True)
    trees = forest(node("a"), node("b", "a"), node("c", "a"), node("x"), references=(copy,))
    assert trees.blocked("b")
    assert trees.blocked("a")
    assert trees.blocked("c") is None
    torn = Reference("torn.qcow2", "qcow2", None, parent_known=False)
    assert forest(node("a"), references=(torn,)).blocked("a")


def test_formats_that_cannot_be_parents() -> None:
    trees = forest(node("v", image_format="vhd"), node("q", "v"))
    assert trees.defect("q") == "a qcow2 image cannot have a vhd parent"
