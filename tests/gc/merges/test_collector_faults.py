"""A run of the collector in which one call fails that changes a name or makes a change last.

Some of these calls of half of the kinds of merges, in whatever thread; in a soak each of all. All
disks read as before at any moment, and the next run leaves nothing of the work or of its failure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.gc.merges.test_crash import (
    Scene,
    coalesce_scene,
    leaf_scene,
    pull_into_leaf_scene,
    pull_scene,
)
from tests.support.every_call import ERRORS, Subject, meet
from tests.support.saved import Saved
from tests.support.site import Site
from tests.support.tiers import chosen

SCENES = (leaf_scene, coalesce_scene, pull_scene, pull_into_leaf_scene)


def subject(
    site: Site,
    image_format: str,
    build: Callable[[Site, str], tuple[Scene, int]],
    save: Callable[[Site], Saved] = Saved,
) -> Subject:
    """A collector's run on a scene; no disk is changed by it, whatever happens."""
    scene, _ = build(site, image_format)
    disks = {uuid: bytes(model.data) for uuid, model in scene.models.items()}
    return Subject(
        name=build.__name__,
        saved=save(site),
        sr=scene.sr,
        arguments=("gc", "run", "--sr", scene.sr),
        disks=disks,
        touched="",
        expected=lambda now: disks,
        settles=True,
    )


@pytest.mark.one_in(2)
def test_a_run_with_a_failing_call(cow_format: str, tmp_path: Path) -> None:
    scenes = chosen(SCENES, 2, f"failing runs, {cow_format}")
    subjects = [subject(Site(tmp_path / build.__name__), cow_format, build) for build in scenes]
    attempts, places = meet(subjects, ERRORS, f"failing runs, {cow_format}")
    print(f"{attempts} calls failed at {places} places")
    assert attempts
