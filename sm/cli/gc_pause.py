"""`sm gc pause`, `resume` and `limit`: what an administrator says about the collector of an SR."""

from __future__ import annotations

import getpass
import re
import time
from argparse import Namespace
from dataclasses import asdict
from datetime import datetime
from typing import Any

from sm.cli.admin import Admin
from sm.errors import InvalidArgument
from sm.gc.state import switches
from sm.gc.state.switches import HOURS, PAUSE_SECONDS, RATE, Hours, Pause
from sm.kick import kick_anywhere
from sm.pool.base import SrRecord

_SPAN = re.compile(r"(\d+(?:\.\d+)?)([smhd])")
LONGEST_SECONDS = 10 * 366 * 86400.0
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def pause(admin: Admin, options: Namespace) -> None:
    """Let the collector of an SR copy nothing for a while.

    It goes on deleting, and finishes what is copied already. The pause holds on all hosts and
    ends by itself, after 24 hours unless --for or --until says otherwise.
    """
    sr, now = admin.find_sr(options.sr), time.time()
    if options.until is not None:
        until = parse_time(options.until)
    else:
        until = now + (PAUSE_SECONDS if options.span is None else parse_span(options.span))
    by = f"{getpass.getuser()}@{admin.settings.host_name}"
    wanted = Pause(by, now, until, options.reason)
    switches.pause(admin.pool, sr, wanted)
    kick_anywhere(admin.settings.run, sr.uuid)
    admin.output.result({"uuid": sr.uuid, "paused": asdict(wanted)}, f"until {_shown(until)}")


def resume(admin: Admin, options: Namespace) -> None:
    """Let the collector of an SR go on; it need not be paused."""
    sr = admin.find_sr(options.sr)
    switches.resume(admin.pool, sr)
    kick_anywhere(admin.settings.run, sr.uuid)
    admin.output.result({"uuid": sr.uuid, "paused": None}, "")


def limit(admin: Admin, options: Namespace) -> None:
    """Show or set how fast and when the collector of an SR copies; `none` takes a limit away."""
    sr = admin.find_sr(options.sr)
    if options.rate_mib not in (None, "none"):
        switches.parse_rate(options.rate_mib)
    if options.hours not in (None, "none"):
        Hours.parse(options.hours)
    for key, value in ((RATE, options.rate_mib), (HOURS, options.hours)):
        if value is not None:
            admin.pool.remove_from_sr_other_config(sr.ref, key)
            if value != "none":
                admin.pool.add_to_sr_other_config(sr.ref, key, value)
    if options.rate_mib is not None or options.hours is not None:
        kick_anywhere(admin.settings.run, sr.uuid)
    document = _limits(admin.pool.sr(sr.ref))
    text = "\n".join(f"{key}: {value or 'none'}" for key, value in document.items())
    admin.output.result(document, text)


def _limits(sr: SrRecord) -> dict[str, Any]:
    return {
        "uuid": sr.uuid,
        "rate_mib": sr.other_config.get(RATE),
        "hours": sr.other_config.get(HOURS),
    }


def parse_span(text: str) -> float:
    """Seconds from `90s`, `30m`, `2h` or `1d`, also one after the other; `InvalidArgument`."""
    found = _SPAN.findall(text)
    if not found or "".join(map("".join, found)) != text:
        raise InvalidArgument(f"a time is like 30m, 2h or 1h30m, not {text[:50]!r}")
    seconds = sum(float(number) * _UNITS[unit] for number, unit in found)
    if seconds > LONGEST_SECONDS:
        raise InvalidArgument(f"a time is ten years at most, not {text[:50]!r}")
    return seconds


def parse_time(text: str) -> float:
    """Seconds since 1970 from ISO 8601, local time where it names no zone; `InvalidArgument`."""
    try:
        return datetime.fromisoformat(text).timestamp()
    except (ValueError, OverflowError) as error:
        raise InvalidArgument(f"a time is like 2031-01-31T18:00, not {text!r}") from error


def _shown(moment: float) -> str:
    return datetime.fromtimestamp(moment).astimezone().isoformat(timespec="minutes")
