"""The findings as pure functions of facts: each code, and what must not be found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from sm import keys
from sm.cowutil.base import ImageInfo, ParentLink
from sm.doctor import mend
from sm.doctor.facts import Access, BadNote, Facts, FoundClaim, FoundEntry, Life, Mark, Owned, Use
from sm.doctor.finding import (
    ClearMark,
    DropClaim,
    Finding,
    PublishUse,
    Recover,
    RemoveLink,
    ResetKey,
    Scan,
    SetAside,
    SettleStart,
    finding_codes,
)
from sm.doctor.findings import findings
from sm.gc.state.ledger import Failure
from sm.journal import Entry, Unreadable
from sm.pool.base import NULL_REF, SrRecord, VdiRecord
from sm.records import sm_config_of
from sm.scan import Scan as Look
from sm.tree import Forest, Node, Reference
from sm.volumes.base import Volume

SR = SrRecord("ref-sr", "sr-1", "images", "", "file", False, 0, 0, 0, {}, {})
ENDED = Owned(Life.ENDED, "vdi_activate (process 5 on host h)", "alpha")


def _record(node: Node, **changed: object) -> VdiRecord:
    values: dict[str, object] = {
        "ref": f"ref-{node.uuid}",
        "uuid": node.uuid,
        "sr": SR.ref,
        "name_label": "",
        "name_description": "",
        "type": "user",
        "sharable": False,
        "read_only": node.hidden,
        "managed": not node.hidden,
        "location": node.uuid,
        "virtual_size": node.virtual_size,
        "physical_utilisation": node.used,
        "metadata_of_pool": NULL_REF,
        "is_a_snapshot": False,
        "snapshot_of": NULL_REF,
        "snapshot_time": "",
        "cbt_enabled": False,
        "missing": False,
        "on_boot": "persist",
        "allow_caching": False,
        "sm_config": sm_config_of(node),
        "other_config": {},
        **changed,
    }
    return VdiRecord(**values)  # type: ignore[arg-type]


def _info(node: Node, *marks: str) -> ImageInfo:
    link = ParentLink(f"{node.parent}.qcow2", node.format) if node.parent else None
    path = Path(f"/sr/{node.uuid}.qcow2")
    return ImageInfo(path, node.format, 100, 10, node.hidden, link, marks=marks)


def facts(
    *nodes: Node, references: tuple[Reference, ...] = (), unread: str = "", marks: str = ""
) -> Facts:
    """An SR of these images, with records that fit; `unread` has no headers, `marks` has marks."""
    volumes = {
        node.uuid: Volume(node.uuid, node.format, Path(f"/sr/{node.uuid}.qcow2"), 10, 10)
        for node in nodes
    }
    infos = {
        node.uuid: _info(node, *(["corrupt"] if node.uuid == marks else []))
        for node in nodes
        if node.uuid != unread
    }
    forest = Forest(nodes, references)
    records = {
        node.uuid: _record(node)
        for node in nodes
        if not (node.hidden and not forest.children_of(node.uuid))
    }
    look = Look(forest, volumes, infos)
    return Facts(SR, Access.ATTACHED, scan=look, records=records, limits={"qcow2": 30})


BASE = Node("b", "qcow2", hidden=True, virtual_size=100)
DISK = Node("d", "qcow2", parent="b", virtual_size=100)
OTHER = Node("e", "qcow2", parent="b", virtual_size=100)
WELL = facts(BASE, DISK, OTHER)


def _run(length: int, *, hidden: bool) -> Facts:
    """A chain; below the leaf all hidden, or all with another leaf so that nothing can go."""
    nodes = [Node("n00", "qcow2", hidden=True, virtual_size=100)]
    for number in range(1, length):
        parent, last = f"n{number - 1:02}", number == length - 1
        nodes.append(Node(f"n{number:02}", "qcow2", parent, hidden=not last, virtual_size=100))
        if not hidden:
            nodes.append(Node(f"s{number:02}", "qcow2", parent, virtual_size=100))
    return facts(*nodes)


def _with_record(uuid: str, **changed: object) -> Facts:
    node = WELL.forest[uuid]
    return replace(WELL, records={**WELL.records, uuid: _record(node, **changed)})


def _waiting(key: str) -> Facts:
    sm_config = {**sm_config_of(WELL.forest["d"]), key: "4096", "host_ref-h": "RW"}
    return _with_record("d", sm_config=sm_config)


def _marked(mark: Mark, *uses: Use) -> Facts:
    return replace(WELL, marks=(mark,), uses=uses)


def _claim(key: str, life: Life, *, merge: bool) -> FoundClaim:
    return FoundClaim(key, "{}", key.partition("-")[2], merge, Owned(life, "gc (process 5)"))


def _entry(operation: str, life: Life = Life.ENDED) -> FoundEntry:
    entry = Entry(operation, "d", "copy", "", {"into": "b", "images": ["b"]})
    return FoundEntry(entry, Owned(life, "gc (process 5)"), here=True)


UNREADABLE = Unreadable("journal-x", None, "empty")
USE = Use("d", "ref-h", "alpha", here=True, known=True, served=False)
STALE = Mark("d", keys.ACTIVATING, "{}", ENDED)

CASES: Mapping[str, Callable[[], Facts]] = {
    "attachment-lost": lambda: Facts(SR, Access.LOST),
    "storage-gone": lambda: Facts(SR, Access.GONE, problem="not mounted"),
    "image-unreadable": lambda: facts(
        Node("d", "qcow2", problem="rubbish", parent_known=False), unread="d"
    ),
    "image-corrupt": lambda: replace(WELL, damage={"d": ("a", "b"), "e": ()}),
    "image-twice": lambda: facts(Node("d", "qcow2", problem="two", parent_known=False, twice=True)),
    "parent-missing": lambda: facts(Node("d", "qcow2", parent="gone", virtual_size=100)),
    "parent-unfit": lambda: facts(Node("d", "qcow2", problem="its parent '/etc/x' is no image")),
    "circle": lambda: facts(
        Node("x", "qcow2", parent="y", virtual_size=100),
        Node("y", "qcow2", parent="x", virtual_size=100),
        Node("z", "qcow2", parent="y", virtual_size=100),
    ),
    "hidden-but-shown": lambda: _with_record("b", managed=True),
    "visible-but-unmanaged": lambda: _with_record("d", managed=False),
    "deleted-with-record": lambda: replace(
        facts(replace(DISK, hidden=True, parent=None)), records={"d": _record(DISK)}
    ),
    "image-missing": lambda: replace(
        WELL, records={**WELL.records, "f": _record(Node("f", "qcow2"))}
    ),
    "record-without-image": lambda: replace(
        WELL,
        records={
            **WELL.records,
            "f": replace(_record(Node("f", "qcow2")), sm_config={keys.CREATING: "x"}),
        },
    ),
    "image-without-record": lambda: replace(
        WELL, records={uuid: record for uuid, record in WELL.records.items() if uuid != "d"}
    ),
    "record-differs": lambda: _with_record("d", virtual_size=99),
    "names-differ": lambda: replace(WELL, names="they are damaged"),
    "stale-activating": lambda: _marked(STALE),
    "foreign-mark": lambda: _marked(Mark("d", "paused", "true", Owned(Life.FOREIGN))),
    "key-without-process": lambda: replace(WELL, uses=(USE,)),
    "host-silent": lambda: replace(WELL, uses=(replace(USE, served=None, problem="silence"),)),
    "host-unknown": lambda: replace(WELL, uses=(replace(USE, served=None, known=False),)),
    "process-without-key": lambda: replace(WELL, keyless=("d",)),
    "storage-read-only": lambda: replace(WELL, read_only=True),
    "start-unfinished": lambda: replace(WELL, half_started=("d",)),
    "waits-for-space": lambda: _waiting(keys.WAITS_FOR_SPACE),
    "waits-for-master": lambda: _waiting(keys.WAITS_FOR_MASTER),
    "stale-claim": lambda: replace(WELL, claims=(_claim("changing-d", Life.ENDED, merge=False),)),
    "claim-unreadable": lambda: replace(
        WELL, claims=(_claim("changing-d", Life.FOREIGN, merge=False),)
    ),
    "unfinished-work": lambda: replace(WELL, entries=(_entry("coalesce"),)),
    "attachment-unreadable": lambda: Facts(SR, Access.UNREADABLE, problem="x.json: empty"),
    "journal-unreadable": lambda: replace(WELL, unreadable=(UNREADABLE,)),
    "journal-aside": lambda: replace(
        WELL, unreadable=(Unreadable("aside-1-journal-x", None, "", aside=True),)
    ),
    "progress-unreadable": lambda: replace(WELL, progress=("merged-b",)),
    "note-unreadable": lambda: replace(
        WELL, notes=(BadNote("d", Path("qsd"), "d.json: empty", None),)
    ),
    "ledger-unreadable": lambda: replace(WELL, ledger=(Path("gc.db"), "no database")),
    "chain-near-limit": lambda: _run(25, hidden=True),
    "leftover-file": lambda: replace(WELL, leftovers=(".new-x",)),
    "stranger": lambda: facts(DISK, BASE, references=(Reference("x.qcow2", "qcow2", None, True),)),
    "dead-link": lambda: replace(WELL, dead_links=("d",)),
    "work-failed": lambda: replace(
        WELL,
        failures={
            "d": Failure("d", "no-space", "full", 2, 9.0),
            "gone": Failure("gone", "failed", "", 1, 9.0),
        },
    ),
}


def test_nothing_is_found_where_all_is_well() -> None:
    assert findings(WELL) == []
    assert findings(Facts(SR, Access.DETACHED)) == []


def test_every_code_has_a_case() -> None:
    assert set(CASES) == set(finding_codes())
    assert all(entry["text"] and entry["advice"] for entry in finding_codes().values())


@pytest.mark.parametrize("code", sorted(CASES))
def test_each_code(code: str) -> None:
    if code == "stranger":
        found = [each for each in findings(CASES[code]()) if each.code == code]
    else:
        found = findings(CASES[code]())
    assert [each.code for each in found] == [code]
    (finding,) = found
    assert finding.sr == SR.uuid
    assert finding.subject
    assert finding.text
    assert finding.mend.split()[0] in ("sm", "mv")


def _remedies(found: list[Finding]) -> list[object]:
    return [each.remedy for each in found]


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        ("stale-activating", ClearMark("d", keys.ACTIVATING, "{}")),
        ("foreign-mark", ClearMark("d", "paused", "true")),
        ("key-without-process", ResetKey("d", "ref-h")),
        ("host-silent", None),
        ("host-unknown", None),
        ("stale-claim", DropClaim("changing-d", "{}")),
        ("unfinished-work", Recover()),
        ("leftover-file", Scan()),
        ("record-differs", Scan()),
        ("names-differ", Scan()),
        ("dead-link", RemoveLink("d")),
        ("start-unfinished", SettleStart("d")),
        ("process-without-key", PublishUse("d")),
        ("image-unreadable", None),
        ("image-corrupt", None),
        ("stranger", None),
        ("circle", None),
    ],
)
def test_what_is_mended(code: str, remedy: object) -> None:
    assert remedy in _remedies([each for each in findings(CASES[code]()) if each.code == code])


def test_a_mark_of_others_on_a_disk_in_use_is_left() -> None:
    mark = Mark("d", "paused", "true", Owned(Life.FOREIGN))
    (finding,) = findings(_marked(mark, replace(USE, served=True)))
    assert (finding.code, finding.remedy) == ("foreign-mark", None)
    assert finding.mend == "sm vdi deactivate d"


@pytest.mark.parametrize("life", [Life.LIVES, Life.SILENT, Life.FOREIGN])
def test_a_key_is_left_while_somebody_may_be_activating(life: Life) -> None:
    mark = Mark("d", keys.ACTIVATING, "{}", Owned(life, "somebody", "alpha"))
    found = [each.code for each in findings(_marked(mark, USE))]
    assert "key-without-process" not in found


def test_a_key_of_another_host_is_only_told() -> None:
    (finding,) = findings(replace(WELL, uses=(replace(USE, here=False, name="a b"),)))
    assert (finding.code, finding.remedy) == ("key-without-process", None)
    assert finding.mend == "sm vdi reset d --host 'a b'"


def test_a_wait_that_is_over_is_forgotten() -> None:
    sm_config = {**sm_config_of(WELL.forest["d"]), keys.WAITS_FOR_SPACE: "4096"}
    (finding,) = findings(_with_record("d", sm_config=sm_config))
    assert finding.remedy == ClearMark("d", keys.WAITS_FOR_SPACE, "4096")


def test_a_claim_with_an_entry_goes_with_the_entry() -> None:
    claim = _claim("coalescing-b", Life.ENDED, merge=True)
    found = findings(replace(WELL, claims=(claim,), entries=(_entry("coalesce"),)))
    assert [each.code for each in found] == ["unfinished-work"]
    assert [each.code for each in findings(replace(WELL, claims=(claim,)))] == ["stale-claim"]


def test_work_that_is_under_way_is_nothing_wrong() -> None:
    found = replace(
        WELL,
        entries=(_entry("coalesce", Life.LIVES),),
        claims=(_claim("coalescing-b", Life.LIVES, merge=True),),
        marks=(replace(STALE, owner=Owned(Life.LIVES, "somebody", "alpha")),),
        uses=(USE,),
    )
    assert findings(found) == []


def test_what_is_held_is_not_compared() -> None:
    held = replace(_with_record("d", virtual_size=99), held=frozenset("d"))
    assert findings(held) == []


def test_used_bytes_that_lag_behind_are_nothing_wrong() -> None:
    assert findings(_with_record("d", physical_utilisation=7)) == []


def test_a_chain_says_whether_it_can_be_shortened() -> None:
    (merged,) = findings(_run(25, hidden=True))
    assert merged.mend.startswith("sm gc run")
    (kept,) = findings(_run(26, hidden=False))
    assert kept.mend.startswith("sm vdi tree")
    assert findings(_run(24, hidden=True)) == []


def test_another_host_than_the_master_judges_only_what_is_its_own() -> None:
    for code, make in CASES.items():
        made = make()
        if made.access is not Access.ATTACHED:
            continue
        found = [each.code for each in findings(replace(made, master=False))]
        own = (
            *("stale-activating", "foreign-mark", "dead-link", "start-unfinished"),
            *("note-unreadable", "ledger-unreadable", "storage-read-only"),
        )
        kinds = ("key", "host", "process")
        assert found == ([code] if code in own or code.startswith(kinds) else [])


def test_only_what_an_unreadable_record_may_be_about_is_left_alone() -> None:
    made = replace(CASES["dead-link"](), leftovers=(".new-x",), unreadable=(UNREADABLE,))
    aside, scan, link = SetAside("journal-x"), Scan(), RemoveLink("d")
    assert _remedies(findings(made)) == [aside, scan, link]
    assert _remedies(findings(replace(made, held=frozenset("d")))) == [aside, scan, None]


def test_a_note_is_left_where_a_process_may_be_its() -> None:
    note = BadNote("d", Path("qsd"), "d.json: empty", 17)
    (found,) = findings(replace(WELL, notes=(note,)))
    assert (found.remedy, found.mend) == (None, "ps -fp 17")


def test_each_remedy_once_and_the_records_last() -> None:
    made = replace(
        CASES["record-differs"](),
        leftovers=(".new-1", ".new-2"),
        dead_links=("d",),
        entries=(_entry("snapshot"), _entry("coalesce")),
        claims=(_claim("changing-d", Life.ENDED, merge=False),),
    )
    assert mend.plan(findings(made)) == [
        Recover(),
        DropClaim("changing-d", "{}"),
        RemoveLink("d"),
        Scan(),
    ]
    assert all(mend.in_words(remedy) for remedy in mend.plan(findings(made)))
