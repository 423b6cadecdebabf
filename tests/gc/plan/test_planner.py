"""The planner: examples of each decision, and properties over random forests."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sm.gc.plan.planner import Coalesce, Delete, LeafCoalesce, Situation, plan
from sm.tree import Forest, Node, Reference
from sm.users import User

QUIET = Situation()
BESIDE = Situation(beside=frozenset({"qcow2"}))
"""As if the format could be merged while others have it open."""


def grow(text: str) -> Forest:
    """A forest from words `name<parent`; a capital letter marks a hidden image."""
    nodes = []
    for word in text.split():
        name, _, parent = word.partition("<")
        nodes.append(Node(name, "qcow2", parent=parent or None, hidden=name.isupper()))
    return Forest(nodes)


def test_nothing_to_do() -> None:
    assert plan(grow("a b B c<B d<B"), QUIET).actions == ()


def test_hidden_leaves_are_deleted_children_first() -> None:
    assert plan(grow("a X Y<X Z<Y"), QUIET).actions == (Delete(("Z", "Y", "X")),)


def test_a_visible_child_keeps_its_parents() -> None:
    decided = plan(grow("X Y<X a<Y Z<X"), QUIET)
    assert decided.actions[0] == Delete(("Z",))


def test_a_run_is_merged_in_one_pass_into_its_lowest() -> None:
    decided = plan(grow("A s<A B<A C<B D<C x<D y<D"), QUIET)
    assert decided.actions == (Coalesce(("D", "C"), "B"),)


def test_a_run_at_the_base() -> None:
    assert plan(grow("A B<A x<B y<B"), QUIET).actions == (Coalesce(("B",), "A"),)


def test_a_leaf_takes_the_whole_run_along() -> None:
    assert plan(grow("A B<A x<B"), QUIET).actions == (LeafCoalesce("x", ("B",), "A"),)


def test_a_leaf_that_must_stay_lets_the_run_be_merged() -> None:
    decided = plan(grow("A B<A x<B"), Situation(no_leaf_coalesce={"x": "on_boot=reset"}))
    assert decided.actions == (Coalesce(("B",), "A"),)
    alone = plan(grow("A x<A"), Situation(no_leaf_coalesce={"x": "on_boot=reset"}))
    assert (alone.actions, alone.waiting[0].code) == ((), "leaf-kept")


def test_garbage_beside_a_run_does_not_hide_it() -> None:
    decided = plan(grow("A B<A G<A x<B y<B"), QUIET)
    assert decided.actions == (Delete(("G",)), Coalesce(("B",), "A"))


def test_a_visible_image_is_never_merged_into() -> None:
    assert plan(grow("a B<a x<B y<B"), QUIET).actions == ()
    assert plan(grow("a x<a"), QUIET).actions == ()


def used(*users: User, beside: bool = False) -> Situation:
    """A situation in which these users have disks active."""
    active = {user.vdi: tuple(u for u in users if u.vdi == user.vdi) for user in users}
    return replace(BESIDE if beside else QUIET, active=active)


Y = User("y", "h", writable=True)


def test_the_only_datapath_above_merges_the_run() -> None:
    decided = plan(grow("A B<A x<B y<B"), used(Y))
    assert decided.actions == (Coalesce(("B",), "A", through=Y),)


@pytest.mark.parametrize(
    ("users", "code"),
    [
        ((Y, User("x", "other", writable=True)), "several-users"),
        ((Y, User("x", "h", writable=True)), "several-users"),
        ((User("y", "h", writable=False), User("y", "other", writable=False)), "several-users"),
        ((User("y", "h", writable=False),), "read-only-user"),
    ],
)
def test_other_datapaths_make_the_run_wait(users: tuple[User, ...], code: str) -> None:
    decided = plan(grow("A B<A x<B y<B"), used(*users))
    assert decided.actions == ()
    assert [(each.image, each.code) for each in decided.waiting] == [("B", code)]


def test_a_format_that_is_merged_beside_its_users_does_not_wait() -> None:
    users = (Y, User("x", "other", writable=False))
    decided = plan(grow("A B<A x<B y<B"), used(*users, beside=True))
    assert decided.actions == (Coalesce(("B",), "A"),)


@pytest.mark.parametrize("trees", ["A B<A x<B y<B", "A B<A y<B"])
def test_what_moves_blocks_waits_for_users_alone(trees: str) -> None:
    """A run below disks in use, and one with the leaf of its only user."""
    moving = {"A": "no room"}
    decided = plan(grow(trees), replace(used(Y, beside=True), moving=moving))
    assert decided.actions == ()
    assert [(each.code, each.reason) for each in decided.waiting] == [("moves-blocks", "no room")]
    assert plan(grow(trees), replace(QUIET, moving=moving)).actions != ()


def test_an_active_leaf_is_merged_through_its_only_user() -> None:
    for beside in (False, True):
        for tree, images in (("A y<A", ()), ("A B<A y<B", ("B",))):
            decided = plan(grow(tree), used(Y, beside=beside))
            assert decided.actions == (LeafCoalesce("y", images, "A", through=Y),)


@pytest.mark.parametrize(
    "users",
    [
        (User("y", "h", writable=False),),
        (User("y", "h", writable=False), User("y", "other", writable=False)),
        (Y, User("y", "other", writable=True)),
    ],
)
def test_an_active_leaf_with_other_users_waits(users: tuple[User, ...]) -> None:
    for beside in (False, True):
        decided = plan(grow("A y<A"), used(*users, beside=beside))
        assert (decided.actions, decided.waiting[0].code) == ((), "active-leaf")


@pytest.mark.parametrize(
    ("situation", "code"),
    [
        ({"leaf_coalesce": False}, "leaf-disabled"),
        ({"no_leaf_coalesce": {"y": "on_boot=reset"}}, "leaf-kept"),
        ({"held": {"y": "w"}}, "held"),
    ],
)
def test_an_active_leaf_that_must_stay(situation: dict[str, object], code: str) -> None:
    alone = plan(grow("A y<A"), replace(used(Y), **situation))
    assert (alone.actions, alone.waiting[0].code) == ((), code)
    decided = plan(grow("A B<A y<B"), replace(used(Y), **situation))
    assert decided.actions == (Coalesce(("B",), "A", through=Y),)


def test_users_of_other_disks_do_not_matter() -> None:
    decided = plan(grow("A B<A x<B z y"), used(Y))
    assert decided.actions == (LeafCoalesce("x", ("B",), "A"),)


def test_held_images_wait() -> None:
    decided = plan(grow("A B<A x<B y<B G"), Situation(held={"B": "w", "G": "w"}))
    assert decided.actions == ()
    assert {(each.image, each.code) for each in decided.waiting} == {("B", "held"), ("G", "held")}


def test_a_smaller_image_is_not_merged() -> None:
    nodes = list(grow("A B<A x<B y<B"))
    forest = Forest([replace(nodes[0], virtual_size=2), *nodes[1:]])
    decided = plan(forest, QUIET)
    assert (decided.actions, decided.waiting[0].code) == ((), "smaller")


def test_formats_are_not_mixed() -> None:
    nodes = list(grow("A B<A x<B y<B"))
    forest = Forest([replace(nodes[0], format="raw"), *nodes[1:]], (), {"qcow2": {"qcow2", "raw"}})
    assert plan(forest, QUIET).waiting[0].code == "mixed-formats"


@pytest.mark.parametrize("switch", ["collect", "coalesce"])
def test_switches(switch: str) -> None:
    decided = plan(grow("A B<A x<B y<B G"), replace(QUIET, **{switch: False}))
    assert decided.actions == (() if switch == "collect" else (Delete(("G",)),))


def test_damage_blocks_its_tree_only() -> None:
    decided = plan(grow("B<lost G<B H X<H"), QUIET)
    assert decided.actions == (Delete(("X", "H")),)
    assert {each.code for each in decided.waiting} == {"damaged-tree"}


@st.composite
def situations(draw: st.DrawFn) -> tuple[Forest, Situation]:
    """Any forest: parents anywhere, missing ones and circles too, unreadable images, strangers."""
    count = draw(st.integers(1, 9))
    names = [str(number) for number in range(count)]
    parents = st.none() | st.sampled_from([*names, "missing"])
    nodes = [
        Node(
            name,
            draw(st.sampled_from(["vhd", "qcow2"])) if draw(st.integers(0, 5)) == 0 else "qcow2",
            parent=draw(parents)
            if draw(st.integers(0, 9)) == 0
            else draw(
                st.none() | st.sampled_from([each for each in names if each < name] or [None])
            ),
            hidden=draw(st.booleans()),
            virtual_size=draw(st.sampled_from([8, 8, 8, 16])),
            problem="bad" if draw(st.integers(0, 15)) == 0 else None,
        )
        for name in names
    ]
    references = [
        Reference("stranger", "qcow2", draw(parents), draw(st.booleans()))
        for _ in range(draw(st.integers(0, 1)) * draw(st.integers(0, 1)))
    ]
    some = st.dictionaries(st.sampled_from(names), st.just("why"), max_size=1)
    active = {
        name: (User(name, "h", draw(st.booleans())),)
        for name in draw(st.sets(st.sampled_from(names), max_size=2))
    }
    beside = draw(st.sampled_from([frozenset(), frozenset({"vhd"}), frozenset({"qcow2"})]))
    situation = Situation(
        active,
        beside,
        no_leaf_coalesce=draw(some),
        held=draw(some),
        moving=draw(some),
        coalesce=draw(st.booleans()),
    )
    return Forest(nodes, references), situation


@given(situations())
def test_no_plan_loses_anything(drawn: tuple[Forest, Situation]) -> None:
    forest, situation = drawn
    for action in plan(forest, situation).actions:
        gone = set(action.images)
        if isinstance(action, Delete):
            for uuid in gone:
                assert forest[uuid].hidden
                assert set(forest.children_of(uuid)) <= gone
        else:
            top = action.leaf if isinstance(action, LeafCoalesce) else action.images[0]
            chain = [node.uuid for node in forest.chain(top)]
            into = chain.index(action.into)
            assert forest[action.into].hidden
            assert all(forest[uuid].hidden for uuid in gone)
            assert chain[1 if isinstance(action, LeafCoalesce) else 0 : into] == list(action.images)
            users = [
                user
                for node in forest.subtree(action.into)
                for user in situation.active.get(node.uuid, ())
            ]
            if isinstance(action, LeafCoalesce):
                assert users == ([action.through] if action.through else [])
                assert all(user.vdi == action.leaf and user.writable for user in users)
            elif users and forest[action.into].format not in situation.beside:
                assert users == [action.through]
                assert users[0].writable
            else:
                assert action.through is None
            doomed = {
                uuid
                for other in plan(forest, situation).actions
                if isinstance(other, Delete)
                for uuid in other.images
            }
            for lower, upper in zip(chain[into:0:-1], chain[into - 1 :: -1], strict=False):
                assert set(forest.children_of(lower)) - doomed == {upper}
        for uuid in gone:
            assert uuid not in situation.held
            assert forest.blocked(uuid) is None


@given(situations())
def test_a_quiet_forest_comes_to_rest(drawn: tuple[Forest, Situation]) -> None:
    """Carried out on values, plans end after at most as many steps as there are images."""
    forest, _ = drawn
    nodes = dict(forest.nodes)
    for _ in range(len(nodes) + 1):
        actions = plan(Forest(nodes.values(), forest.references), QUIET).actions
        if not actions:
            return
        action = actions[0]
        if isinstance(action, LeafCoalesce):
            below = nodes.pop(action.into)
            nodes[action.leaf] = replace(nodes[action.leaf], parent=below.parent)
        for uuid in action.images:
            del nodes[uuid]
        if isinstance(action, Coalesce):
            for node in list(nodes.values()):
                if node.parent in action.images:
                    nodes[node.uuid] = replace(node, parent=action.into)
    raise AssertionError("there is always something left to do")
