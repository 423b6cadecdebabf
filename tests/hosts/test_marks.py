"""The mark of an activation that a crash left: who clears it, and what others are told."""

from __future__ import annotations

import pytest

from sm import keys
from sm.owner import Owner, boot_id
from tests.hosts.disks import SIZE
from tests.hosts.hosts import Host, Pool
from tests.support.site import Refused


def leave_mark(pool: Pool, host: Host, disk: str) -> None:
    """As a process of `host` does that is killed before it writes the host key."""
    dead = Owner(host.uuid, boot_id(), 2**22 + 1, 1, "vdi_activate").text
    with host.pool() as opened:
        opened.add_to_vdi_sm_config(opened.vdi_by_uuid(disk).ref, keys.ACTIVATING, dead)


def test_its_host_goes_on_from_there(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2", SIZE)
    leave_mark(pool, pool.second, disk)
    pool.second.activate(disk)
    pool.second.deactivate(disk)
    with pool.second.pool() as opened:
        assert keys.ACTIVATING not in opened.vdi_by_uuid(disk).sm_config


def test_another_host_is_told_who_and_can_reset_it(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2", SIZE)
    leave_mark(pool, pool.second, disk)
    with pytest.raises(Refused, match=f"on host {pool.second.uuid}") as refused:
        pool.third.activate(disk)
    assert refused.value.error["name"] == "EGAIN"
    pool.third.sm("vdi", "reset", disk, "--host", "beta")
    pool.third.activate(disk)
    pool.third.deactivate(disk)


def test_it_goes_when_its_host_attaches_after_a_boot(pool: Pool) -> None:
    disk = pool.master.create_vdi(pool.sr, "qcow2", SIZE)
    leave_mark(pool, pool.second, disk)
    for attachment in (pool.second.root / "run" / "attached").iterdir():
        attachment.unlink()  # as a boot does
    pool.second.sm("sr", "attach", pool.sr)
    pool.third.activate(disk)
    pool.third.deactivate(disk)
