"""Judging whether the process behind a mark, claim or journal entry still lives, on any host."""

from __future__ import annotations

from functools import cached_property

from sm.doctor.facts import Life, Owned
from sm.errors import SmError
from sm.hosts.calls import hello
from sm.owner import Owner, host_of
from sm.pool.base import HostRecord, Pool


class Owners:
    """One round of judging: each host is asked once at most. `host` is the UUID of this one."""

    foreign = Owned(Life.FOREIGN)

    def __init__(self, pool: Pool, host: str) -> None:
        self._pool = pool
        self._host = host
        self._boots: dict[str, str | None] = {}

    def judge(self, text: str) -> Owned:
        """What is known of an owner, from its text.

        A process of another host has ended when that host was booted since; else it may live.
        """
        try:
            owner = Owner.parse(text)
        except ValueError:
            return self.foreign
        if owner.host == self._host:
            life = Life.ENDED if owner.ended(self._host) else Life.LIVES
            return Owned(life, str(owner), self._name(owner.host))
        if owner.host not in self._hosts:
            return Owned(Life.UNKNOWN_HOST, str(owner))
        boot = self._boot(owner.host)
        if boot is None:
            return Owned(Life.SILENT, str(owner), self._name(owner.host))
        life = Life.LIVES if boot == owner.boot else Life.ENDED
        return Owned(life, str(owner), self._name(owner.host))

    def is_here(self, text: str) -> bool:
        """Whether the owner is, or was, a process of this host."""
        return host_of(text) == self._host

    @cached_property
    def _hosts(self) -> dict[str, HostRecord]:
        return {host.uuid: host for host in self._pool.hosts()}

    def _name(self, uuid: str) -> str:
        host = self._hosts.get(uuid)
        return host.name_label or uuid if host is not None else uuid

    def _boot(self, uuid: str) -> str | None:
        """The present boot of another host; None when it does not answer."""
        if uuid not in self._boots:
            try:
                self._boots[uuid] = str(hello(self._pool, self._hosts[uuid].ref)["boot"])
            except SmError:
                self._boots[uuid] = None
        return self._boots[uuid]
