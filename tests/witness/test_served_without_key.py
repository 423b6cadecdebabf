"""A disk that vdi_attach_from_config serves has no host key: its process speaks for it."""

from __future__ import annotations

import pytest

from tests.datapath.clients import content, qemu_io
from tests.support.site import MIB, Refused, Site
from tests.witness import from_config

pytestmark = pytest.mark.one_in(2)

SIZE = 16 * MIB


class Served:
    """A disk with a base to be merged into, served as at a boot without a pool."""

    def __init__(self, site: Site, image_format: str) -> None:
        self.site, self.sr = site, site.create_sr()
        self.vdi = site.create_vdi(self.sr, image_format, SIZE)
        qemu_io(site.activate(self.vdi), "write -P 1 0 8M")
        site.deactivate(self.vdi)
        copy = site.snapshot(self.vdi)
        qemu_io(site.activate(self.vdi), "write -P 2 0 1M")
        site.deactivate(self.vdi)
        site.delete(copy)
        self.uri = from_config.attach(site, site.folder / "store", self.sr, self.vdi)

    def detach(self) -> None:
        from_config.detach(self.site, self.site.folder / "store", self.sr, self.vdi)

    def keys(self) -> dict[str, str]:
        found: dict[str, str] = self.site.sm("vdi", "show", self.vdi)["sm_config"]
        return {key: value for key, value in found.items() if key.startswith("host_")}

    def verify(self) -> None:
        """The disk has what was acknowledged, wherever it is by now."""
        uri = self.site.activate(self.vdi, "--read-only")
        read = content(uri, SIZE)
        self.site.deactivate(self.vdi)
        assert [read[at * MIB] for at in (0, 1, 4, 6, 9)] == [2, 1, 3, 5, 0]


@pytest.fixture
def served(site: Site, cow_format: str) -> Served:
    """A disk that nobody but its process says is in use."""
    made = Served(site, cow_format)
    assert made.keys() == {}
    qemu_io(made.uri, "write -P 3 4M 64k", "flush")
    return made


def test_the_collector_does_not_merge_it_as_if_at_rest(served: Served) -> None:
    served.site.sm("gc", "run", "--sr", served.sr)
    qemu_io(served.uri, "write -P 5 6M 64k", "flush")
    served.detach()
    served.verify()
    served.site.sm("gc", "run", "--sr", served.sr)
    served.verify()


def test_it_is_not_deleted(served: Served) -> None:
    with pytest.raises(Refused, match="active on"):
        served.site.delete(served.vdi)
    qemu_io(served.uri, "write -P 5 6M 64k", "flush")
    served.detach()
    served.verify()


def test_a_snapshot_takes_the_process_along(served: Served) -> None:
    copy = served.site.snapshot(served.vdi)
    qemu_io(served.uri, "write -P 5 6M 64k", "flush")
    served.detach()
    served.verify()
    read = content(served.site.activate(copy, "--read-only"), SIZE)
    assert (read[4 * MIB], read[6 * MIB]) == (3, 1)
    served.site.deactivate(copy)


@pytest.mark.parametrize("command", ["snapshot", "attach", "activate", "doctor"])
def test_the_key_is_added_once_the_pool_is_at_hand(served: Served, command: str) -> None:
    """And a detach takes it away again."""
    site = served.site
    if command == "snapshot":
        site.snapshot(served.vdi)
    elif command == "attach":
        site.sm("sr", "attach", served.sr)
    elif command == "activate":
        site.activate(served.vdi)
    else:
        codes = [finding["code"] for finding in site.sm("doctor")["findings"]]
        assert codes == ["process-without-key"]
        site.sm("doctor", "--fix", "--yes")
        assert site.sm("doctor")["findings"] == []
    assert list(served.keys().values()) == ["RW"]
    qemu_io(served.uri, "write -P 5 6M 64k", "flush")
    served.detach()
    assert served.keys() == {}
    served.verify()


def test_its_sr_is_not_detached(served: Served) -> None:
    with pytest.raises(Refused, match="active on this host"):
        served.site.sm("sr", "detach", served.sr)
    qemu_io(served.uri, "write -P 5 6M 64k", "flush")
    served.detach()
    served.site.sm("sr", "detach", served.sr)
    served.site.sm("sr", "attach", served.sr)
    served.verify()
