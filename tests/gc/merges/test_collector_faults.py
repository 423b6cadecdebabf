"""A run of the collector in which one call fails that changes a name or makes a change last.

Each such call of each kind of merge, in whatever thread. All disks read as before at any moment,
and the next run leaves nothing of the work or of its failure.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

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
from tests.support.tiers import SOAK

SCENES = (leaf_scene, pull_scene)
"""A run of merges down into a leaf's place, and one down and one up; a soak has the others."""

MORE_SCENES = (coalesce_scene, pull_into_leaf_scene)


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


def test_a_run_with_a_failing_call(cow_format: str, tmp_path: Path) -> None:
    scenes = SCENES + MORE_SCENES if SOAK else SCENES
    subjects = [subject(Site(tmp_path / build.__name__), cow_format, build) for build in scenes]
    attempts, places = meet(subjects, ERRORS, stride=1 if SOAK else 4)
    print(f"{attempts} calls failed at {places} places")
    assert attempts >= 30
