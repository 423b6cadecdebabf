"""What wakes a collector, and that a lock is for one thread of it."""

from __future__ import annotations

import threading
from pathlib import Path

from sm.errors import LockFailed
from sm.gc.service.ear import AT_REST, Ear, asked_by, request
from sm.kick import kick, send, socket_path
from sm.locks import Locks
from tests.support.patience import patient

HOUR = 3600
"""A wait that does not end by what the test does is ended by the limit for every test."""


def test_a_kick_before_the_sleep_ends_it(tmp_path: Path) -> None:
    path = socket_path(tmp_path, "sr")
    with Ear.open(path) as ear:
        assert kick(tmp_path, "sr")
        ear.wait(HOUR)
        assert ear.heard() == [b"kick"]
        threading.Timer(0.1, ear.wake).start()
        ear.wait(HOUR)
        assert ear.heard() == []
        send(path, request("me.ask"))
        ear.wait(HOUR)
        assert [asked_by(message) for message in ear.heard()] == ["me.ask"]
        ear.answer("nobody.ask", AT_REST)
    assert not kick(tmp_path, "sr")
    for message in (b"kick", b"\xff", b"[]", b'{"run": 1}', b'{"run": "../x"}'):
        assert asked_by(message) is None


def test_a_lock_is_for_one_thread(tmp_path: Path) -> None:
    locks = Locks(tmp_path, "host", 0.1)
    refused: list[str] = []

    def other() -> None:
        try:
            with locks.hold("sr", "x", "other"):
                pass
        except LockFailed as error:
            refused.append(error.detail)

    with locks.hold("sr", "x", "one"), locks.hold("sr", "x", "again"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(patient(10))
    assert len(refused) == 1
    assert "one" in refused[0]
    thread = threading.Thread(target=other)
    thread.start()
    thread.join(patient(10))
    assert len(refused) == 1
