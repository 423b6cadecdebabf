"""Settings: where everything lives, which pool database, which host this is.

One root holds all state. It comes from `--root`, else `SM_ROOT`, else `/var/lib/sm` for root and
the user's XDG state folder for anybody else; so a test, or a second host on the same machine, is
only another root. `sm.conf` in the root (or `/etc/sm/sm.conf`) may set the rest.
"""

from __future__ import annotations

import math
import os
import socket
import uuid
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from sm import settings_file
from sm.cowutil.registry import FORMATS
from sm.durable import read_file, write_file
from sm.errors import InvalidArgument
from sm.inventory import installation_uuid
from sm.settings_file import Options

SYSTEM_ROOT = Path("/var/lib/sm")
SYSTEM_CONFIG = Path("/etc/sm/sm.conf")
XAPI_SOCKET = Path("/var/lib/xcp/xapi")
XAPI_INVENTORY = Path("/etc/xensource-inventory")
TAPDISK_CONTROL = Path("/run/blktap-control")
LEAST_STEP_MIB = 1 / 16
URL_SCHEMES = ("postgresql", "postgres")


@dataclass(frozen=True, slots=True)
class Credentials:
    """What this host shows other hosts over TLS, and the authority that theirs must be from.

    Each is a file in PEM form.
    """

    certificate: Path
    key: Path
    authority: Path


@dataclass(frozen=True, slots=True)
class Settings:
    """What the rest of the program needs to know about its surroundings.

    `pool_kind` is `embedded` or `xapi`. `pool_database` is the path of an SQLite file, or the URL
    of a PostgreSQL database, which may hold a password. `preferred_formats` is the default order
    for new disks.
    `lock_seconds` bounds every wait for a lock. `log_target` is `file`, `journald`, `syslog` or
    `stderr`.
    `datapath` is `tapdisk`, `own`, or `auto` for tapdisk where its program `tapdisk` is found;
    `tapdisk_control` is the folder of its sockets, `tapdisk_merges_into_parent` whether it is known
    to merge a QCOW2 image into its parent, and not into the base of the chain. `expose` says how
    users reach an active disk: `nbd`, a socket, or `fuse`, a file. `host_listen`: where `sm-hostd`
    answers: `unix`, or `tls://name:port`, for which there must be `credentials`. `pause_seconds`:
    how long the users of a disk may be held at most when its own image is merged. The collector's
    service copies nothing in the first `gc_quiet_seconds` after an attach, runs `gc_parallel`
    copies of one SR at once at most, and takes a worker that says nothing for `gc_hang_seconds`
    for hung; a long merge is made durable each `gc_step_bytes`; where `gc_metrics_listen` names an
    address, it gives figures to Prometheus there.
    `thin_spare_bytes`: what a thin volume that is written is given beyond what it uses.
    """

    root: Path
    pool_kind: str
    pool_database: Path | str = field(repr=False)
    xapi_socket: Path
    xapi_inventory: Path
    host_uuid: str
    host_name: str
    preferred_formats: tuple[str, ...]
    lock_seconds: float
    log_target: str
    datapath: str
    tapdisk: str
    tapdisk_control: Path
    tapdisk_merges_into_parent: bool
    expose: str
    host_listen: str
    credentials: Credentials | None
    gc_quiet_seconds: float
    gc_parallel: int
    gc_hang_seconds: float
    gc_step_bytes: int
    gc_metrics_listen: str
    pause_seconds: float
    thin_spare_bytes: int

    @property
    def run(self) -> Path:
        """What is true only until the next boot: attachments, locks, sockets, links to disks."""
        return self.root / "run"

    @property
    def locks(self) -> Path:
        """Lock files, by name space."""
        return self.run / "lock"

    @property
    def mounts(self) -> Path:
        """Where the file systems of SRs are mounted, by the UUID of the SR."""
        return self.run / "sr-mount"

    @property
    def ledger(self) -> Path:
        """What the collectors of this host remember."""
        return self.root / "gc.db"

    @property
    def log_file(self) -> Path:
        """The log, where it goes to a file."""
        return self.root / "log" / "sm.log"


def default_root(environment: Mapping[str, str]) -> Path:
    """The root when none is given: system-wide for root, private for anybody else."""
    if os.geteuid() == 0:
        return SYSTEM_ROOT
    state = environment.get("XDG_STATE_HOME") or str(Path.home() / ".local" / "state")
    return Path(state) / "sm"


def load(root: Path | None = None, environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings of `root`; makes the root and its host identity on first use."""
    if root is None:
        given = environment.get("SM_ROOT")
        root = Path(given) if given else default_root(environment)
    root = root.absolute()
    options = settings_file.read([SYSTEM_CONFIG, root / "sm.conf"])
    xapi_socket = Path(options.get("xapi_socket", str(XAPI_SOCKET)))
    kind = _one_of(options, "pool", "auto", "embedded", "xapi")
    if kind == "auto":
        kind = "xapi" if xapi_socket.exists() else "embedded"
    inventory = Path(options.get("xapi_inventory", str(XAPI_INVENTORY)))
    settings = Settings(
        root=root,
        pool_kind=kind,
        pool_database=_place(options, str(root / "pool.db")),
        xapi_socket=xapi_socket,
        xapi_inventory=inventory,
        host_uuid=options.get("host_uuid") or _host_uuid(root / "host_uuid", kind, inventory),
        host_name=options.get("host_name", socket.gethostname()),
        preferred_formats=_formats(options),
        lock_seconds=_number(options, "lock_seconds", 60.0, 0.0),
        log_target=_one_of(options, "log", "file", "journald", "syslog", "stderr"),
        datapath=_one_of(options, "datapath", "auto", "tapdisk", "own"),
        tapdisk=options.get("tapdisk", "tapdisk"),
        tapdisk_control=Path(options.get("tapdisk_control", str(TAPDISK_CONTROL))),
        tapdisk_merges_into_parent=(
            _one_of(options, "tapdisk_merges_into_parent", "no", "yes") == "yes"
        ),
        expose=_one_of(options, "expose", "nbd", "fuse"),
        host_listen=options.get("host_listen", "unix"),
        credentials=_credentials(options, root),
        gc_quiet_seconds=_number(options, "gc_quiet_seconds", 300.0, 0.0),
        gc_parallel=int(_number(options, "gc_parallel", 2.0, 1.0)),
        gc_hang_seconds=_number(options, "gc_hang_seconds", 180.0, 1.0),
        gc_step_bytes=int(_number(options, "gc_step_mib", 128.0, LEAST_STEP_MIB) * (1 << 20)),
        gc_metrics_listen=options.get("gc_metrics_listen", ""),
        pause_seconds=_number(options, "pause_seconds", 2.0, 0.0, more=True),
        thin_spare_bytes=int(_number(options, "thin_spare_mib", 256.0, 4.0)) << 20,
    )
    options.require_known()
    return settings


def _number(
    options: Options, name: str, default: float, least: float, *, more: bool = False
) -> float:
    """An option that is a finite number: `least`, or more; with `more` only that."""
    given = options.get(name, default)
    with suppress(ValueError):
        value = float(given)
        if least <= value < math.inf and not (more and value == least):
            return value
    bounds = f"above {least:g}" if more else f"from {least:g} on"
    raise InvalidArgument(f"{options.place(name)}: {name} is a number {bounds}, not {given!r}")


def _one_of(options: Options, name: str, *values: str) -> str:
    """An option with a few possible values, the first by default."""
    value = options.get(name, values[0])
    if value not in values:
        allowed = ", ".join(values)
        raise InvalidArgument(f"{options.place(name)}: {name} is one of {allowed}, not {value!r}")
    return value


def _formats(options: Options) -> tuple[str, ...]:
    """Formats in the order in which they are preferred."""
    name = "preferred_image_formats"
    given = options.get(name, ",".join(FORMATS))
    found = tuple(each.strip() for each in given.split(",") if each.strip())
    for each in found:
        if each not in FORMATS:
            known = ", ".join(FORMATS)
            raise InvalidArgument(f"{options.place(name)}: {each!r} is none of {known}")
    return found


def _place(options: Options, default: str) -> Path | str:
    """Where the pool database is: a path, unless it is a URL."""
    value = options.get("pool_database", default)
    scheme, separator, _ = value.partition("://")
    if not separator:
        return Path(value)
    if scheme in URL_SCHEMES:
        return value
    raise InvalidArgument(
        f"{options.place('pool_database')}: pool_database is a path or a URL postgresql://...,"
        f" not one with {scheme!r}"
    )


def _credentials(options: Options, root: Path) -> Credentials | None:
    """The three files for TLS, relative to the root; all of them or none."""
    names = ("host_certificate", "host_key", "host_authority")
    given = [root / options[name] for name in names if options.get(name)]
    if not given:
        return None
    if len(given) < len(names):
        place = options.place(next(name for name in names if options.get(name)))
        raise InvalidArgument(f"{place}: TLS needs all of {', '.join(names)}")
    return Credentials(*given)


def _host_uuid(path: Path, pool_kind: str, inventory: Path) -> str:
    """The identity of this host: XAPI's, so that other hosts know whose a claim is; or made once.

    Where XAPI's inventory tells nothing, the first use of the pool says so.
    """
    if pool_kind == "xapi":
        with suppress(OSError):
            found = installation_uuid(inventory)
            if found is not None:
                return found
    try:
        return _identity(path)
    except FileNotFoundError:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_file(path, f"{uuid.uuid4()}\n".encode("ascii"), exclusive=True)
        return _identity(path)


def _identity(path: Path) -> str:
    """The UUID in a file. What is damaged is not made anew: claims and marks carry the old one."""
    try:
        return str(uuid.UUID(read_file(path).decode("ascii").strip()))
    except ValueError as error:
        raise InvalidArgument(
            f"{path}, line 1: the UUID of this host cannot be read: {error}; write it there again,"
            " as 'sm host list' of another host or the records of the pool have it"
        ) from error
