"""VHD: our map, bytes, verdict and size, against qemu, libvhdi and dissect.hypervisor."""

from __future__ import annotations

import random
import uuid
from pathlib import Path

import pytest

from sm.cowutil.extents import Extents
from tests.cowutil.contract.subjects import qemu_content
from tests.cowutil.vhd.vhd_support import ref, util
from tests.crosscheck.counts import VHD_CHAINS, VHD_FOREIGN, VHD_OF_QEMU
from tests.crosscheck.qcow2_chains import Chain, uniform_ranges
from tests.crosscheck.readers import (
    DIFFERENCING,
    dissect_vhd,
    libvhdi,
    libvhdi_facts,
    libvhdi_is_wrong,
    ours,
    qemu_io_agrees,
)
from tests.crosscheck.vhd_chains import foreign, make_chain, of_qemu


def agree_on_images(chain: Chain) -> None:
    """Size, link and verdict of each image alone."""
    for image in chain.images:
        info = util().info(image.path)
        size, kind, parent = libvhdi_facts(image.path)
        assert info.virtual_size == size or libvhdi_is_wrong([image])
        assert (info.parent is not None) == (kind == DIFFERENCING)
        if info.parent is not None:
            assert parent is not None
            assert parent.replace("\\", "/").rpartition("/")[2] == info.parent.name
        assert util().check(image.path).corruptions == ()
        held = util().allocated_extents(image.path)
        assert held.total <= util().allocated_size(image.path) <= info.virtual_size
        assert Extents.of([(0, info.virtual_size)]).covers(held)


def agree_on_disk(chain: Chain, seed: int) -> None:
    """The guest's bytes, through all parents."""
    assert ours(chain.images) == chain.disk
    if not libvhdi_is_wrong(chain.images):
        assert libvhdi([image.path for image in chain.images]) == chain.disk
    base = chain.images[-1:]
    if len(chain.images) == 1:
        assert qemu_content(base) == chain.disk
        assert not qemu_io_agrees(base, uniform_ranges(chain.disk, seed, 8))
        assert dissect_vhd(base[0].path) == chain.disk


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(VHD_CHAINS))
def test_chains_that_we_write(seed: int, tmp_path: Path) -> None:
    chain = make_chain(seed, tmp_path)
    agree_on_images(chain)
    agree_on_disk(chain, seed)
    base = chain.images[-1]
    alone = Chain([base], ours([base]))
    agree_on_disk(alone, seed)
    if len(chain.images) > 2:
        into = random.Random(seed).randrange(2, len(chain.images))
        util().coalesce(chain.images, into)
        shorter = [chain.images[0], *chain.images[into:]]
        util().set_parent(chain.images[0].path, shorter[1])
        agree_on_images(Chain(shorter, chain.disk))
        agree_on_disk(Chain(shorter, chain.disk), seed)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(VHD_FOREIGN))
def test_layouts_of_others(seed: int, tmp_path: Path) -> None:
    chain = foreign(seed, tmp_path)
    agree_on_images(chain)
    agree_on_disk(chain, seed)


@pytest.mark.one_in(4)
@pytest.mark.parametrize("seed", range(VHD_OF_QEMU))
def test_disks_of_qemu(seed: int, tmp_path: Path) -> None:
    chain = of_qemu(seed, tmp_path)
    size = libvhdi_facts(chain.images[0].path)[0]
    whole = Chain(chain.images, chain.disk.ljust(size, b"\0"))
    agree_on_images(whole)
    agree_on_disk(whole, seed)


def test_identifiers_are_those_of_libvhdi(tmp_path: Path) -> None:
    """What links a child to its parent, besides the name."""
    import pyvhdi

    util().create(tmp_path / "base.vhd", 2 << 20)
    util().snapshot(tmp_path / "child.vhd", ref(tmp_path / "base.vhd"), 2 << 20)
    files = [pyvhdi.file(), pyvhdi.file()]
    for file, name in zip(files, ("base.vhd", "child.vhd"), strict=True):
        file.open(str(tmp_path / name))
    raw = (tmp_path / "base.vhd").read_bytes()[68:84]
    assert uuid.UUID(files[0].identifier) == uuid.UUID(files[1].parent_identifier)
    assert uuid.UUID(files[0].identifier) in (uuid.UUID(bytes=raw), uuid.UUID(bytes_le=raw))
    for file in files:
        file.close()
