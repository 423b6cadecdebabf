"""An SR whose storage cannot be released is still attached, and may be detached later."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from sm.attachment import Attachment
from sm.errors import SrInUse
from tests.drivers.contract.host import Host
from tests.drivers.contract.toy import MemoryPlace, MemorySr

BUSY = "busy"


class BusySr(MemorySr):
    """Cannot be left while there is a file called `busy`."""

    def detach(self, attachment: Attachment) -> None:
        if (Path(attachment.place["path"]) / BUSY).exists():
            raise SrInUse("somebody is there")


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    """An attached SR."""
    place = MemoryPlace(tmp_path)
    made = Host(tmp_path / "root", BusySr, place.device_config())
    made.make()
    yield made
    place.close()


@pytest.mark.parametrize("command", ["sr_detach", "sr_delete"])
def test_who_cannot_leave_is_still_there(host: Host, command: str) -> None:
    attachment = host.driver.attachments.require(host.sr_uuid)
    busy = Path(attachment.place["path"]) / BUSY
    busy.touch()
    assert host.refused(command).code == 16
    assert host.driver.attachments.find(host.sr_uuid) == attachment
    busy.unlink()
    host.call(command)
    assert host.driver.attachments.find(host.sr_uuid) is None
