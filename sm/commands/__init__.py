"""The SMAPI commands: from a request to what its reply carries. XAPI and the CLI both come here.

`sr` and `vdi` hold one handler for each command. A handler turns wire arguments into typed ones,
takes the lock that the command needs, and calls the code that does the work.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from sm import config, log
from sm.commands import sr, vdi
from sm.commands.call import Call, Handler
from sm.cowutil.errors import ImageBusy, ImageError, SizeOutOfRange
from sm.errors import (
    BadRequest,
    PoolError,
    SmError,
    SrNoSpace,
    ToolFailed,
    Unimplemented,
    VdiInUse,
    VdiSize,
)
from sm.smapi.request import Request
from sm.smapi.xmlrpc import Value
from sm.sr import SrDriver

logger = logging.getLogger(__name__)

HANDLERS: Mapping[str, Handler] = {**sr.HANDLERS, **vdi.HANDLERS}

UNSUPPORTED = frozenset(
    {
        "vdi_data_destroy",
        "vdi_disable_cbt",
        "vdi_enable_cbt",
        "vdi_list_changed_blocks",
        "vdi_revert",
    }
)
"""Commands of the contract that no driver here supports yet."""


def perform(driver_class: type[SrDriver], method: str, parameters: list[Any]) -> Value:
    """Parse a call of XAPI and carry it out, with the settings and the log of this host.

    Raises `SmError`; anything else is a defect.
    """
    try:
        settings = config.load()
    except OSError as error:
        raise SmError(f"the settings cannot be read: {error}") from error
    log.start(settings.log_target, settings.log_file)
    return execute(driver_class(settings), Request.parse(method, parameters))


def execute(driver: SrDriver, request: Request) -> Value:
    """Carry out one request; raises `SmError`, anything else is a defect."""
    with log.about(sr=request.sr_uuid or "", vdi=request.vdi_uuid or ""):
        return _execute(driver, request)


def _execute(driver: SrDriver, request: Request) -> Value:
    command = request.command
    handler = HANDLERS.get(command)
    if handler is None:
        if command in UNSUPPORTED:
            raise Unimplemented(command)
        raise BadRequest(f"the command {command!r} is unknown")
    logger.info("%s: sr %s vdi %s", command, request.sr_uuid, request.vdi_uuid or "-")
    call = Call(request, driver, driver.settings)
    try:
        with refusing(command):
            return handler(call)
    finally:
        call.close()


@contextmanager
def refusing(command: str) -> Iterator[None]:
    """Around the work of a command: whatever fails in it is told as clients of SMAPI expect."""
    try:
        yield
    except SizeOutOfRange as error:
        raise VdiSize(str(error)) from error
    except ImageBusy as error:
        raise VdiInUse(str(error)) from error
    except (ToolFailed, ImageError, OSError, PoolError) as error:
        raise _wrapped(command, error) from error
    except SmError as error:
        logger.warning("%s: %s", command, error)
        raise


_WRAPPED_AS: Mapping[str, str] = {
    "sr_scan": "SRScan",
    "vdi_create": "VDICreate",
    "vdi_delete": "VDIDelete",
    "vdi_attach": "VDIUnavailable",
    "vdi_detach": "VDIUnavailable",
    "vdi_activate": "VDIUnavailable",
    "vdi_deactivate": "VDIUnavailable",
    "vdi_resize": "VDIResize",
    "vdi_snapshot": "VDISnapshot",
    "vdi_clone": "VDIClone",
}
"""What a failure of a tool, an image or the pool is called, by command (SMAPI convention)."""


def _wrapped(command: str, error: Exception) -> SmError:
    logger.error("%s: %s", command, error, exc_info=error)
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or "No space left on device" in str(error):
        return SrNoSpace(str(error))
    long = isinstance(error, OSError) and error.errno == errno.EFBIG
    if long or "File too large" in str(error):
        said = (
            "no file of the SR's file system can be so long; choose a smaller size, or another SR"
        )
        return VdiSize(f"{said} ({error})")
    if isinstance(error, SmError) and not isinstance(error, ToolFailed):
        if error.code_name != PoolError.name:
            return error
        return SmError(error.detail, name=_WRAPPED_AS.get(command, error.code_name))
    detail = error.detail if isinstance(error, SmError) else str(error)
    return SmError(detail, name=_WRAPPED_AS.get(command, "SMGeneral"))
