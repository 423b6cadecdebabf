"""NFS as the client of this host mounts it: versions, options, and what a server tells of itself.

All functions but the last two are pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from sm import process
from sm.block import given
from sm.errors import InvalidArgument, SmError, ToolFailed

PORT = 2049
PROGRAM = "100003"  # of NFS (RFC 1813, section 3)
ASK_SECONDS = 30.0

VERSIONS = ("3", "4", "4.0", "4.1", "4.2")
DEFAULT_VERSION = "3"

OPTIONS = (
    "soft",
    "proto=tcp",
    "timeo=200",
    "retrans=4",
    "acdirmin=0",
    "acdirmax=0",
)
"""What every mount has: nfs(5). Soft, so that no call hangs for ever on a dead server. Names in
folders are not cached, or another host's journal and claims would be seen too late."""

_NUMBER = re.compile(r"[0-9]{1,10}")
_WITHOUT_VALUE = frozenset(
    [
        "hard",
        "soft",
        "softerr",
        "softreval",
        "nosoftreval",
        "lock",
        "nolock",
        "noatime",
        "nodiratime",
        "relatime",
        "fsc",
        "nofsc",
        "sharecache",
        "nosharecache",
        "resvport",
        "noresvport",
        "intr",
        "nointr",
        "cto",
        "nocto",
        "rdirplus",
        "nordirplus",
    ]
)
_VALUES: Mapping[str, re.Pattern[str]] = {
    **dict.fromkeys(
        [
            "rsize",
            "wsize",
            "timeo",
            "retrans",
            "retry",
            "acregmin",
            "acregmax",
            "nconnect",
            "max_connect",
            "port",
            "mountport",
            "mountvers",
        ],
        _NUMBER,
    ),
    "sec": re.compile(r"(sys|krb5|krb5i|krb5p)(:(sys|krb5|krb5i|krb5p))*"),
    "proto": re.compile(r"tcp|tcp6|rdma"),
    "mountproto": re.compile(r"tcp|tcp6|udp|udp6"),
    "local_lock": re.compile(r"all|flock|posix|none"),
    "lookupcache": re.compile(r"all|none|pos|positive"),
    "clientaddr": re.compile(r"[0-9A-Fa-f.:]{2,45}"),
}


def version(device_config: Mapping[str, str]) -> str:
    """The version of the protocol to mount with; raises `NFSVersion`."""
    value = given.text(device_config, "nfsversion") or DEFAULT_VERSION
    if value not in VERSIONS:
        raise SmError(f"{value[:60]!r}; known are {', '.join(VERSIONS)}", name="NFSVersion")
    return value


def given_options(device_config: Mapping[str, str]) -> tuple[str, ...]:
    """The options of `device_config:options`, each one that may be given; order is kept.

    The version, the address, and how long names are cached are no options here.
    """
    value = given.text(device_config, "options")
    found = tuple(option for option in value.split(",") if option)
    for option in found:
        name, separator, argument = option.partition("=")
        pattern = _VALUES.get(name)
        if not (
            (not separator and name in _WITHOUT_VALUE)
            or (separator and pattern is not None and pattern.fullmatch(argument))
        ):
            known = ", ".join(sorted(_WITHOUT_VALUE | {f"{name}=" for name in _VALUES}))
            raise InvalidArgument(f"the NFS option {option[:60]!r}; possible are {known}")
    if given.flag(device_config, "useUDP"):
        raise InvalidArgument("useUDP: NFS over UDP loses data on fast networks; use TCP")
    return found


def mount_options(nfs_version: str, more: tuple[str, ...]) -> tuple[str, ...]:
    """All options of a mount; of two that contradict each other the later one counts."""
    return (f"vers={nfs_version}", *OPTIONS, *more)


def service_port(options: tuple[str, ...]) -> int:
    """The TCP port of the server."""
    named = [option[5:] for option in options if option.startswith("port=")]
    return given.port(named[-1], "port", PORT) if named else PORT


def source(server: str, path: str) -> str:
    """What is mounted, `server:path`."""
    return f"{given.in_url(server)}:{path}"


def parse_exports(listing: str) -> list[tuple[str, str]]:
    """Path and access list of each export, from what `showmount --no-headers --exports` prints."""
    found = []
    for line in listing.splitlines():
        # A path may hold blanks; what may mount it stands in one word behind.
        path, _, access = line.rstrip().rpartition(" ")
        if path.startswith("/"):
            found.append((path.rstrip(), access))
    return found


def parse_versions(listing: str) -> list[str]:
    """The versions that answered, from what `rpcinfo -t` prints."""
    return re.findall(
        rf"^program {PROGRAM} version ([0-9]+) ready and waiting$", listing, re.MULTILINE
    )


def exports(server: str) -> list[tuple[str, str]]:
    """What a server offers to mount; raises `ToolFailed`. A server of NFS 4 alone tells nothing."""
    command = ["showmount", "--no-headers", "--exports", server]
    return parse_exports(process.run(command, timeout=ASK_SECONDS).stdout)


def supported_versions(server: str, port: int) -> list[str]:
    """The versions that a server answers to."""
    command = ["rpcinfo", "-n", str(port), "-t", server, PROGRAM]
    # The status tells of a version in the middle that it lacks; what answered is told anyhow.
    found = parse_versions(process.run(command, timeout=ASK_SECONDS, accept=(0, 1)).stdout)
    if not found:
        raise SmError(f"{server} answers to no version of NFS", name="NFSTarget")
    return found


def failed_as(failed: ToolFailed, nfs_version: str) -> SmError:
    """What a failed mount means."""
    said = failed.stderr.lower()
    if "protocol not supported" in said or "requested nfs version" in said:
        return SmError(f"{nfs_version}: {failed.detail}", name="NFSVersion")
    return SmError(failed.detail, name="NFSMount")
