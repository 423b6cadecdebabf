"""Disks on a shared SR: made with layers, and verified from any host."""

from __future__ import annotations

from sm import claims
from tests.hosts.hosts import Host, Pool
from tests.support import guest
from tests.support.site import MIB

SIZE = 8 * MIB


def verify(host: Host, sr: str, disk: str, data: bytes) -> None:
    """Read a disk that nobody uses with a reader of others, and check its images."""
    chain = host.chain(sr, disk)
    assert guest.content(chain) == data
    assert guest.check_clean(chain) == []


def verify_tidy(pool: Pool, images: int) -> None:
    """No unfinished work, no claim, no request to yield, no more images than there should be."""
    repository = pool.master.repository(pool.sr)
    assert repository.journal.entries() == []
    assert claims.standing(repository) == []
    assert len(pool.master.images(pool.sr)) == images
    assert not list(pool.location.glob(".new-*"))
    assert not [path for host in pool.hosts for path in (host.root / "run").glob("gc/*.yield")]


def layered(pool: Pool, image_format: str, length: int = MIB) -> tuple[str, bytes]:
    """A disk over two hidden images, with what it reads as: each layer writes `length` bytes."""
    disk = pool.master.create_vdi(pool.sr, image_format, SIZE)
    data = bytearray(SIZE)
    doomed = []
    for number in range(3):
        guest.write(pool.master.chain(pool.sr, disk), number * MIB // 2, length, number + 1)
        start = number * MIB // 2
        data[start : start + length] = bytes([number + 1]) * length
        if number < 2:
            doomed.append(pool.master.snapshot(disk))
    for snapshot in doomed:
        pool.master.delete(snapshot)
    return disk, bytes(data)


def keep_leaf(host: Host, disk: str, keep: bool = True) -> None:
    """Have a disk keep its own image, so that only what is below it is merged; or no longer."""
    with host.pool() as pool:
        ref = pool.vdi_by_uuid(disk).ref
        if keep:
            pool.add_to_vdi_other_config(ref, "leaf-coalesce", "false")
        else:
            pool.remove_from_vdi_other_config(ref, "leaf-coalesce")
