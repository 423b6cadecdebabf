"""Garbage that cannot be deleted: nothing is merged that it hangs on, and no disk is stuck."""

from __future__ import annotations

import errno
import json

import pytest

from tests.datapath.clients import content
from tests.gc.merges.test_crash import Scene, leaf_scene
from tests.support.killing import SM
from tests.support.outside.disk import FailingDisk
from tests.support.outside.programs import program
from tests.support.site import Site

pytestmark = pytest.mark.one_in(2)


@pytest.mark.parametrize("active", [False, True])
def test_a_removal_that_fails(
    cow_format: str, site: Site, disk: FailingDisk, *, active: bool
) -> None:
    scene, images = leaf_scene(site, cow_format)
    size = len(scene.models[scene.disk].data)
    site.surroundings = disk.environment
    if active:
        _sm(scene, "vdi", "activate", scene.disk)
    before = site.images(scene.sr)
    fault = disk.fail("name", errno.EIO, names=f"store/*-*-*-*-*.{cow_format}")
    ended = _sm(scene, "gc", "run", "--sr", scene.sr)
    assert fault.met
    assert ended["done"] == []
    assert {each["code"] for each in ended["waiting"]} == {"failed", "garbage-left"}
    assert site.images(scene.sr) == before
    if active:
        # Whoever has it open goes on, and it can be opened again.
        _sm(scene, "vdi", "deactivate", scene.disk)
        uri = _sm(scene, "vdi", "activate", scene.disk)["nbd"]
        assert content(uri, size) == scene.models[scene.disk].data
    disk.heal()
    _sm(scene, "gc", "run", "--sr", scene.sr)
    if active:
        assert content(uri, size) == scene.models[scene.disk].data
        _sm(scene, "vdi", "deactivate", scene.disk)
        _sm(scene, "gc", "run", "--sr", scene.sr)
    scene.verify_tidy(images)


def _sm(scene: Scene, *arguments: str) -> dict[str, object]:
    ended = program(scene.site.environment, SM, "--json", *arguments)
    assert ended.returncode == 0, ended
    return dict(json.loads(ended.stdout))
