"""A copy of a disk, and merges that claim its images again as soon as they have given way."""

from __future__ import annotations

import threading

import pytest

from sm import activation, claims, snapshot
from sm.repository import Repository
from tests.gc.active import ActiveScene
from tests.support.site import MIB, Refused, Site


@pytest.mark.parametrize("active", [True, False], ids=["in use", "at rest"])
def test_it_asks_again(active: bool, site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between their giving way and the locks of the copy, a collector may come first."""
    scene = ActiveScene(site, "qcow2")
    scene.write(0, MIB, 1)
    base = site.sm("vdi", "show", scene.snapshot())["parent"]
    scene.write(MIB, 4096, 2)
    if not active:
        site.deactivate(scene.disk)
    merging, came = site.repository(scene.sr), threading.Event()
    timers = []
    make_way = snapshot.make_way

    def overtaken(repository: Repository, vdi_uuid: str) -> None:
        make_way(repository, vdi_uuid)
        if len(timers) < 2:
            claims.publish_merge(merging, base, [base, scene.disk])
            timers.append(threading.Timer(0.3, give_way))
            timers[-1].start()

    def give_way() -> None:
        claims.withdraw_merge(merging, base)
        came.set()

    monkeypatch.setattr(snapshot, "make_way", overtaken)
    new = scene.snapshot()
    assert len(timers) == 2
    assert came.is_set()
    assert new in site.images(scene.sr)
    for timer in timers:
        timer.join()
    if active:
        scene.verify_active()
    scene.verify()


def test_it_gives_up(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    """When that goes on for longer than anybody waits: nothing is changed."""
    scene = ActiveScene(site, "qcow2")
    merging = site.repository(scene.sr)
    monkeypatch.setattr(activation, "CLAIM_WAIT_SECONDS", 0.5)

    def overtaken(repository: Repository, vdi_uuid: str) -> None:
        claims.withdraw_merge(merging, scene.disk)
        claims.publish_merge(merging, scene.disk, [scene.disk])

    monkeypatch.setattr(snapshot, "make_way", overtaken)
    before = site.images(scene.sr)
    with pytest.raises(Refused) as refused:
        site.snapshot(scene.disk)
    assert refused.value.error["name"] == "EGAIN"
    assert "at work on its chain" in refused.value.error["detail"]
    assert site.images(scene.sr) == before
    claims.withdraw_merge(merging, scene.disk)
    scene.verify()
