"""A file system that has become read-only is named by the doctor."""

from __future__ import annotations

import pytest

from tests.support.lvm.tools import call
from tests.support.site import Site


@pytest.mark.own_namespaces
def test_a_read_only_file_system_is_found(site: Site) -> None:
    sr = site.create_sr()
    site.create_vdi(sr, "qcow2")
    store = str(site.folder / "store")
    call("mount", "--bind", store, store)
    call("mount", "-o", "remount,bind,ro", store)
    (finding,) = site.sm("doctor")["findings"]
    assert (finding["code"], finding["sr"]) == ("storage-read-only", sr)
    assert site.sm("explain", "storage-read-only")["text"]
    call("mount", "-o", "remount,bind,rw", store)
    assert site.sm("doctor")["findings"] == []
