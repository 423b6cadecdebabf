"""What XAPI does around a driver, in this process: it keeps the records, and sends the requests."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sm import commands, config
from sm.cowutil.base import ImageRef
from sm.errors import SmError
from sm.pool.base import PoolAdmin
from sm.pool.open import open_pool
from sm.repository import Repository
from sm.smapi.request import Request
from sm.sr import SrDriver
from tests.support import guest

MIB = 1 << 20


class Host:
    """A host with an SR of one type, which is not made or attached yet."""

    def __init__(
        self,
        root: Path,
        driver: type[SrDriver],
        device_config: Mapping[str, str],
        sr_uuid: str | None = None,
        **sr: Any,
    ) -> None:
        root.mkdir(parents=True)
        (root / "sm.conf").write_text("[sm]\npool = embedded\nlock_seconds = 10\n")
        self.settings = config.load(root, {})
        pool = open_pool(self.settings, None)
        assert isinstance(pool, PoolAdmin)
        self.pool = pool
        self.driver = driver(self.settings)
        self.device_config = dict(device_config)
        self.sr_uuid = sr_uuid or str(uuid.uuid4())
        kind = driver.info.sr_type
        self.sr_ref = pool.introduce_sr(uuid=self.sr_uuid, sr_type=kind, **sr)
        pool.create_pbd(self.sr_ref, pool.this_host().ref, self.device_config)
        # Made by a fixture, used in a fork: each opens the database itself.
        pool.close()

    def call(self, command: str, *args: str, **members: Any) -> Any:
        """Carry out one request; raises `SmError`."""
        request = {
            "command": command,
            "args": list(args),
            "host_ref": self.pool.this_host().ref,
            "sr_ref": self.sr_ref,
            "sr_uuid": self.sr_uuid,
            "device_config": {**self.device_config, "SRmaster": "true"},
            **members,
        }
        return commands.execute(self.driver, Request.model_validate(request))

    def refused(self, command: str, *args: str, **members: Any) -> SmError:
        """The error of a request that must be refused."""
        try:
            value = self.call(command, *args, **members)
        except SmError as error:
            return error
        raise AssertionError(f"{command} was not refused but answered {value!r}")

    def vdi(self, command: str, vdi_uuid: str, *args: str, **members: Any) -> Any:
        """Carry out a request about a VDI."""
        record = self.pool.vdi_by_uuid(vdi_uuid)
        named = {"vdi_ref": record.ref, "vdi_uuid": vdi_uuid, "vdi_location": record.location}
        return self.call(command, *args, **named, **members)

    def make(self) -> None:
        """Create the SR and attach it."""
        self.call("sr_create", "0")
        self.call("sr_attach")

    def create_vdi(self, image_format: str, size: int = 8 * MIB) -> str:
        """A new disk; returns its UUID."""
        arguments = (str(size), "disk", "", "", "false", "", "", "false")
        hints = {"image-format": image_format}
        return str(self.call("vdi_create", *arguments, vdi_sm_config=hints)["uuid"])

    def repository(self) -> Repository:
        """The attached SR."""
        return Repository.open(self.sr_uuid, self.settings, self.pool)

    def chain(self, vdi_uuid: str) -> list[ImageRef]:
        """The images of a disk, uppermost first, usable at their paths."""
        repository = self.repository()
        return repository.images(repository.look("test").forest.chain(vdi_uuid))

    def write(self, vdi_uuid: str, offset: int, length: int, byte: int) -> None:
        """What a guest writes."""
        guest.write(self.chain(vdi_uuid), offset, length, byte)

    def content(self, vdi_uuid: str) -> bytes:
        """The whole disk, by readers of others where there are."""
        return guest.content(self.chain(vdi_uuid))
