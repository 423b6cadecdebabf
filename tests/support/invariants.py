"""What must hold of an SR at rest, whatever happened to it before."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from sm.cowutil.base import ImageRef
from sm.records import reconcile
from tests.support import guest
from tests.support.site import Site


def check(
    site: Site,
    sr: str,
    disks: Mapping[str, bytes],
    content: Callable[[Sequence[ImageRef]], bytes] = guest.content,
) -> None:
    """Compare the SR with a model of its visible disks, after a quiet run of the collector."""
    site.sm("gc", "run", "--sr", sr)
    repository = site.repository(sr)
    found = repository.scan()
    forest = found.forest

    visible = {node.uuid for node in forest if not node.hidden}
    assert visible == set(disks), "a disk was lost, or came back"
    for uuid, data in disks.items():
        chain = site.chain(sr, uuid)
        assert content(chain) == data, f"content of {uuid}"
        assert guest.check_clean(chain) == []
        assert len(chain) <= 30

    assert not forest.circular
    assert [forest.defect(node.uuid) for node in forest if forest.defect(node.uuid)] == []
    for node in forest:
        children = forest.children_of(node.uuid)
        assert not node.hidden or children, f"garbage {node.uuid} is left"
        if node.hidden and len(children) == 1:
            raise AssertionError(f"{node.uuid} could be merged and was not")

    assert repository.journal.entries() == []
    assert repository.store.unfinished() == ()
    assert [key for key in repository.record.sm_config if key.startswith("coalescing")] == []
    for record in repository.vdis().values():
        assert not [key for key in record.sm_config if key.startswith("host_")]
    changes = reconcile(found, repository.vdis().values(), (), lambda owner: True)
    different = changes.introduce, changes.forget, changes.away
    assert different == ([], [], []), "records and images disagree"
    assert repository.store.space().free >= 0
