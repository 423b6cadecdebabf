"""Every scene of merges on volumes, short and long: hidden volumes may only be read."""

from __future__ import annotations

import pytest

from tests.gc.merges.test_crash import LONG, SCENES, SHORT
from tests.lvm.conftest import LvmSite

pytestmark = [pytest.mark.world, pytest.mark.one_in(8, across="file")]


@pytest.mark.parametrize("allocation", ["thick"])
@pytest.mark.parametrize("step", [SHORT, LONG])
@pytest.mark.parametrize("cow_format", ["vhd", "qcow2"])
@pytest.mark.parametrize("build", SCENES)
def test_merged_in_one_run(build, step: float, cow_format: str, site: LvmSite) -> None:
    site.configure(gc_step_mib=step)
    scene, images = build(site, cow_format)
    report = site.sm("gc", "run", "--sr", scene.sr)
    assert report["waiting"] == []
    scene.verify()
    assert len(site.images(scene.sr)) == images
