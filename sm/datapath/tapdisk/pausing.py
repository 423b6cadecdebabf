"""Pause and resume of one VBD: what each outcome means, and what can no longer be taken back."""

from __future__ import annotations

import errno
import time

from sm.datapath.base import OutcomeUnknown, TapdiskFailed
from sm.datapath.tapdisk.control import Refused
from sm.datapath.tapdisk.life import Vbd
from sm.datapath.tapdisk.wire import State

POLL_SECONDS = 0.05


def pause(vbd: Vbd, seconds: float) -> None:
    """Freeze the users and have all images closed; they are when this returns.

    Tapdisk freezes at once and then waits for the requests under way, without limit. Raises
    `OutcomeUnknown` when that takes longer than `seconds`; it cannot be withdrawn then.
    """
    deadline = time.monotonic() + seconds
    if vbd.paused:
        return
    if not vbd.pausing:
        try:
            vbd.control.pause(vbd.minor, seconds)
        except OutcomeUnknown as error:
            lost = error.detail
        else:
            return
    else:
        lost = "an earlier pause was not answered"
    while not State.PAUSED & (state := _state(vbd)):
        if time.monotonic() > deadline:
            raise OutcomeUnknown(_stuck(vbd, state, lost))
        time.sleep(POLL_SECONDS)


def resume(vbd: Vbd, argument: str, seconds: float) -> None:
    """Have the leaf `argument` and its parents opened, and the users go on.

    Raises `DatapathFailed`, with the disk still paused, where tapdisk refuses.
    """
    try:
        vbd.control.resume(vbd.minor, argument, seconds)
    except Refused as error:
        if error.number == errno.EMEDIUMTYPE:
            why = f"{argument} has another size; the disk must be closed and opened for that"
        elif error.number == errno.EINVAL:
            why = f"the disk is not paused, or an image below {argument} is no good"
        else:
            why = f"{argument} or an image below it cannot be opened"
        raise TapdiskFailed(f"{why}: {error.detail}") from error


def _state(vbd: Vbd) -> State:
    for each in vbd.control.list():
        if each.minor == vbd.minor:
            return each.state
    raise TapdiskFailed(f"tapdisk {vbd.note.pid} no longer has minor {vbd.minor}")


def _stuck(vbd: Vbd, state: State, lost: str) -> str:
    who = f"tapdisk {vbd.note.pid}"
    if State.PAUSE_REQUESTED in state:
        return (
            f"{who} is frozen: it waits for requests under way (state {state:#x}), and a pause"
            " cannot be withdrawn. It becomes paused when the last of them ends; if that never"
            f" comes, only closing the disk helps ({lost})"
        )
    return f"{who} did not begin to pause ({lost})"
