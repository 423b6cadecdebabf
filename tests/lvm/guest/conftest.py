"""Servers of the guest's kernel, started when the first test needs them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.block.mounts import TABLE, parse_table
from tests.support.lvm.tools import call
from tests.support.servers.iscsi import IscsiServer
from tests.support.servers.nfs import NfsServer


@pytest.fixture(scope="session")
def nfs_server() -> NfsServer:
    """An NFS server on 127.0.0.1."""
    return NfsServer()


@pytest.fixture(scope="session")
def iscsi_server() -> IscsiServer:
    """An iSCSI target on 127.0.0.1 that lets everybody in."""
    return IscsiServer()


@pytest.fixture(autouse=True)
def _no_mount_is_left(tmp_path: Path) -> Iterator[None]:
    """Unmount what a failed test left."""
    yield
    for mount in reversed(parse_table(TABLE.read_bytes())):
        if mount.folder.is_relative_to(tmp_path):
            call("umount", "--force", mount.folder)
