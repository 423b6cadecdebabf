"""Process 1 of a guest: makes its root, runs the command, says its status and switches off.

Runs under the interpreter of this machine with nothing but its standard library, first on the bare
file system of the host, then in the root it made: the host's files with memory on top. Whatever
goes wrong here ends the process, and so the guest, with the traceback in the kernel's log.
"""

from __future__ import annotations

import ctypes
import fcntl
import json
import os
import resource
import signal
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

MS_MOVE = 8192
SIOCSIFFLAGS = 0x8914
SIOCSIFADDR = 0x8916
SIOCSIFNETMASK = 0x891C
IFF_UP = 1
NETMASK = "255.255.255.0"

MODULE_TREES = Path("/usr/lib/uml/modules")
WORK = Path("/run/root")
STATE = Path("/run/guest")
"""Where the folder of the guest is in the end, whatever its name is outside."""

IN_MEMORY = ("run", "tmp", "var/tmp")
NOT_FOUND = 127
"""The status of a command that cannot be started, as shells have it."""

libc = ctypes.CDLL(None, use_errno=True)


def mount(source: str, target: Path, kind: str, flags: int = 0, data: str = "") -> None:
    """mount(2); raises OSError. The tool would take commas in a folder's name for its own."""
    words = (os.fsencode(word) for word in (source, target, kind))
    if libc.mount(*words, ctypes.c_ulong(flags), os.fsencode(data)):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot mount {kind or source}: {os.strerror(number)}", str(target))


def make_root(outside: str) -> dict[str, Any]:
    """Lay memory over the host's files, change into that; returns what is to be done there."""
    job: dict[str, Any] = json.loads(Path(outside, "job.json").read_bytes())
    mount("proc", Path("/proc"), "proc")
    mount("sysfs", Path("/sys"), "sysfs")
    mount("tmpfs", Path("/run"), "tmpfs")
    for name in ("upper", "work", "all", "lib"):
        (WORK / name).mkdir(parents=True)
    (WORK / "lib/modules").symlink_to(MODULE_TREES)
    subprocess.run(["/sbin/modprobe", "-d", WORK, "overlay"], check=True)
    new = WORK / "all"
    layers = f"lowerdir=/,upperdir={WORK}/upper,workdir={WORK}/work"
    mount("overlay", new, "overlay", data=layers)
    for name in ("proc", "sys", "dev"):
        (new / name).mkdir(exist_ok=True)
        mount(f"/{name}", new / name, "", MS_MOVE)
    for name in IN_MEMORY:
        (new / name).mkdir(parents=True, exist_ok=True)
        mount("tmpfs", new / name, "tmpfs", data="mode=1777,size=90%")
    for source, target in ((outside, STATE), *((folder, folder) for folder in job["shares"])):
        inside = new / str(target).lstrip("/")
        inside.mkdir(parents=True, exist_ok=True)
        mount("none", inside, "hostfs", data=str(source))
    os.chroot(new)
    os.chdir("/")
    return job


def furnish(job: dict[str, Any]) -> None:
    """Devices, network, modules, and the files that were asked for."""
    for name, kind in (("pts", "devpts"), ("shm", "tmpfs")):
        Path("/dev", name).mkdir(exist_ok=True)
        mount(kind, Path("/dev", name), kind)
    for name, number in (("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2"), ("fd", "")):
        Path("/dev", name).symlink_to(f"/proc/self/fd{number}")
    switch_on(b"lo")
    if job["address"] is not None:
        set_address(b"vec0", job["address"])
        switch_on(b"vec0")
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 65536))
    # Where the kernel itself, LVM and everybody else look for modules.
    modules = Path("/lib/modules", os.uname().release)
    if not modules.exists():
        modules.parent.mkdir(exist_ok=True)
        modules.symlink_to(MODULE_TREES / modules.name)
    subprocess.run(["/sbin/modprobe", "--all", *job["modules"]], check=True)
    for name, text in job["files"].items():
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text, encoding="utf-8")


def switch_on(card: bytes) -> None:
    """Start a network card; raises OSError. See netdevice(7) for this and what follows."""
    with socket.socket() as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sH14x", card, IFF_UP))


def set_address(card: bytes, address: str) -> None:
    """Give a network card its IPv4 address; raises OSError."""
    with socket.socket() as any_socket:
        for request, value in ((SIOCSIFADDR, address), (SIOCSIFNETMASK, NETMASK)):
            place = struct.pack("HH4s8x", socket.AF_INET, 0, socket.inet_aton(value))
            fcntl.ioctl(any_socket, request, struct.pack("16s16s", card, place))


def run(job: dict[str, Any]) -> int:
    """Run the command to its end, and wait for whatever else ends; returns a shell's status."""
    with (STATE / "stdout").open("ab") as stdout, (STATE / "stderr").open("ab") as stderr:
        try:
            child = subprocess.Popen(
                job["command"],
                env=job["environment"],
                cwd=job["folder"],
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                start_new_session=True,
            )
        except OSError as error:
            stderr.write(f"{job['command'][0]} cannot be started: {error}\n".encode())
            return NOT_FOUND
    while True:
        ended, status = os.wait()
        if ended == child.pid:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def main() -> None:
    """Live as long as the command."""
    job = make_root(sys.argv[1])
    furnish(job)
    (STATE / "started").touch()
    status = run(job)
    (STATE / "status.new").write_text(str(status))
    (STATE / "status.new").rename(STATE / "status")
    # Only now: what is left suspended may let nothing be written, ever.
    os.sync()
    Path("/proc/sysrq-trigger").write_text("o")
    while True:
        time.sleep(1)


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    main()
