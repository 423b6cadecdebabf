"""One request on its way through a driver, and what every command needs of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property

from sm import claims, snapshot
from sm.config import Settings
from sm.datapath.base import Disk
from sm.errors import BadRequest, SmError
from sm.hosts import serving
from sm.pool.base import Pool
from sm.pool.open import open_pool
from sm.repository import Repository
from sm.smapi.request import Request
from sm.smapi.xmlrpc import Value
from sm.sr import SrDriver
from sm.uuids import require_uuid


@dataclass(frozen=True)
class Call:
    """One request on its way: the driver that it is for, and the pool that it belongs to."""

    request: Request
    driver: SrDriver
    settings: Settings

    @cached_property
    def pool(self) -> Pool:
        """The pool database, opened when first needed: a probe may not need any."""
        return open_pool(self.settings, self.request.session_ref)

    def close(self) -> None:
        """Let go of the pool database, if it was opened."""
        if "pool" in self.__dict__:
            self.pool.close()

    @cached_property
    def device_config(self) -> dict[str, str]:
        """How this host reaches the SR, with what its record says of how it is laid out."""
        if not self.driver.sm_config_keys:
            return self.with_layout({})
        return self.with_layout(self.pool.sr_by_uuid(self.request.sr_uuid).sm_config)

    def with_layout(self, sm_config: Mapping[str, str]) -> dict[str, str]:
        """The device_config of the request, with what the driver wants of an SR's sm_config.

        Secrets that it names are in it as they are.
        """
        known = {key: sm_config[key] for key in self.driver.sm_config_keys if key in sm_config}
        config = {**known, **self.request.device_config}
        for key in self.driver.secret_keys:
            secret = config.pop(f"{key}_secret", "")
            if secret:
                config[key] = self.pool.secret(secret)
        return config

    def repository(self) -> Repository:
        """The SR of the request, which must be attached here."""
        return Repository.open(self.request.sr_uuid, self.settings, self.pool)

    def repository_anyhow(self) -> Repository:
        """The same to be let go of: its storage may have gone away since it was attached."""
        return Repository.open(self.request.sr_uuid, self.settings, self.pool, present=False)

    @contextmanager
    def locked(self, repository: Repository | None = None) -> Iterator[Repository]:
        """The SR of the request with its lock held; on its master, nothing interrupted is left."""
        repository = repository or self.repository()
        repository.settle()
        with repository.locked(self.request.command):
            # The lock is this host's: elsewhere the writer of an entry may be at work.
            if self.request.is_master:
                snapshot.recover(repository)
            yield repository

    @contextmanager
    def changing(self) -> Iterator[Repository]:
        """As `locked`, and no host activates or deactivates the VDI of the request meanwhile."""
        repository, command = self.repository(), self.request.command
        with (
            repository.locks.hold("vdi", self.vdi_uuid, command),
            claims.changing(repository, self.vdi_uuid, command),
            self.locked(repository),
        ):
            if self.vdi_uuid in serving.here(repository):
                serving.publish(repository, Disk(repository.uuid, self.vdi_uuid))
            yield repository

    @property
    def vdi_uuid(self) -> str:
        """The VDI of the request."""
        uuid = self.request.vdi_uuid or self.request.vdi_location
        if not uuid:
            raise BadRequest(f"{self.request.command}: vdi_uuid is missing")
        require_uuid(uuid)
        return uuid

    def require_master(self) -> None:
        """Refuse commands that change an SR's chains anywhere but on its master."""
        if not self.request.is_master:
            raise SmError(self.request.command, name="LVMMaster")


Handler = Callable[[Call], Value]
