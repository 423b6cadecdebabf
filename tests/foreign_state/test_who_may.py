"""Who may hold a lock or reach a socket; and what is left in the folder for temporary files."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from sm.datapath.sockets import STANDS_FOR
from tests.foreign_state.damage import codes, everything_works
from tests.support.site import Refused, Site


def _modes(folder: Path) -> dict[str, int]:
    return {
        str(path.relative_to(folder)): stat.S_IMODE(path.stat().st_mode)
        for path in (folder, *folder.rglob("*"))
    }


def test_locks_are_for_their_owner_alone(site: Site) -> None:
    """Also where an earlier version made the folders for everybody."""
    locks = site.root / "run" / "lock"
    (locks / "sr").mkdir(parents=True, mode=0o755)
    everything_works(site, sr := site.create_sr(), site.create_vdi(sr, "qcow2"))
    for name, mode in _modes(locks).items():
        assert mode in (0o700, 0o600), f"{name} is {mode:o}"


def test_the_folder_of_locks_can_be_given_to_a_group(site: Site) -> None:
    locks = site.root / "run" / "lock"
    locks.mkdir(parents=True)
    locks.chmod(0o2770)
    everything_works(site, sr := site.create_sr(), site.create_vdi(sr, "qcow2"))
    modes = _modes(locks)
    for name, mode in modes.items():
        assert mode & 0o007 == 0, f"{name} is {mode:o}"
        assert mode & 0o060 == 0o060, f"{name} is {mode:o}"


def _stand_ins(site: Site) -> list[Path]:
    """The folders for sockets that stand for one of this site."""
    links = Path("/tmp").glob(f"sm-{os.geteuid()}-*/{STANDS_FOR}")
    return sorted(link.parent for link in links if link.readlink().is_relative_to(site.root))


@pytest.mark.parametrize("image_format", ["qcow2", "vhd"])
def test_folders_for_sockets_go_with_the_last_disk(tmp_path: Path, image_format: str) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    site = Site(deep)
    sr = site.create_sr()
    first, second = (site.create_vdi(sr, image_format) for _ in range(2))
    site.activate(first)
    site.activate(second)
    folders = _stand_ins(site)
    assert folders
    assert all(stat.S_IMODE(folder.stat().st_mode) == 0o700 for folder in folders)
    site.deactivate(first)
    site.activate(second)  # still served
    site.deactivate(second)
    assert _stand_ins(site) == []
    site.activate(first)
    assert _stand_ins(site) == folders
    site.deactivate(first)
    assert _stand_ins(site) == []
    assert "dead-link" not in codes(site)
    assert _stand_ins(site) == []


def test_a_folder_for_sockets_that_is_open_to_all_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)
    deep.mkdir()
    site = Site(deep)
    sr = site.create_sr()
    first, second = (site.create_vdi(sr, "qcow2") for _ in range(2))
    site.activate(first)
    folders = _stand_ins(site)
    for folder in folders:
        folder.chmod(0o777)
    with pytest.raises(Refused, match="open to everybody"):
        site.activate(second)
    for folder in folders:
        folder.chmod(0o700)
    site.activate(second)
    for disk in (first, second):
        site.deactivate(disk)
