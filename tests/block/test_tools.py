"""What tools and the kernel print, as we read it; and the commands that we run."""

from __future__ import annotations

from pathlib import Path

from sm.block import devices, mounts, nfs
from sm.errors import ToolFailed


def test_the_table_of_mounts() -> None:
    # proc(5); the second line has optional fields and blanks as the kernel writes them.
    table = (
        b"22 1 254:0 / / rw,relatime - ext4 /dev/root rw\n"
        b"30 22 0:40 / /mnt/a\\040b\\134c rw shared:1 master:2 - nfs4 nas:/e\\011x rw,vers=4.2\n"
        b"31 22 0:41 / /mnt/\xff rw - tmpfs none rw\n"
        b"rubbish\n"
    )
    assert mounts.parse_table(table) == [
        mounts.Mount(Path("/"), "ext4", "/dev/root"),
        mounts.Mount(Path("/mnt/a b\\c"), "nfs4", "nas:/e\tx"),
        mounts.Mount(Path("/mnt/\udcff"), "tmpfs", "none"),
    ]


def test_the_command_that_mounts() -> None:
    options = nfs.mount_options("3", ())
    source = nfs.source("2001:db8::7", "/srv/nfs")
    assert mounts.mount_command(source, Path("/run/x"), "nfs", options) == [
        *("mount", "-t", "nfs", "-o"),
        "vers=3,soft,proto=tcp,timeo=200,retrans=4,acdirmin=0,acdirmax=0",
        *("--", "[2001:db8::7]:/srv/nfs", "/run/x"),
    ]


def test_exports() -> None:
    # showmount 2.6.2, --no-headers --exports; the second as for a path with a blank in it.
    listing = "/srv/nfs   *\n/srv/two words 10.0.0.0/8,host.example\n\nclnt_create: failed\n"
    assert nfs.parse_exports(listing) == [
        ("/srv/nfs", "*"),
        ("/srv/two words", "10.0.0.0/8,host.example"),
    ]


def test_versions_that_answered() -> None:
    # rpcinfo 1.2.6 (rpcbind), -n 2049 -t 127.0.0.1 100003
    listing = (
        "program 100003 version 3 ready and waiting\nprogram 100003 version 4 ready and waiting\n"
    )
    assert nfs.parse_versions(listing) == ["3", "4"]
    assert nfs.parse_versions("program 100003 is not available\n") == []


def test_what_a_failed_mount_means() -> None:
    # mount.nfs 2.6.2
    for said, code in (
        ("mount.nfs: Protocol not supported", 72),
        ("mount.nfs: requested NFS version or transport protocol is not supported", 72),
        ("mount.nfs: access denied by server while mounting 127.0.0.1:/nope", 73),
    ):
        failed = ToolFailed(("mount",), "exit status 32", said)
        assert nfs.failed_as(failed, "4.0").code == code


def test_signatures() -> None:
    # wipefs 2.38.1, --json --no-act
    found = (
        '{\n   "signatures": [\n      {"device": "sdb", "offset": "0x200", "type": "gpt",'
        ' "uuid": null, "label": null},\n'
        '      {"device": "sdb", "offset": "0x1fe", "type": "PMBR", "uuid": null, "label": null}\n'
        "   ]\n}\n"
    )
    assert devices.parse_signatures(found) == ["gpt", "PMBR"]
    assert devices.parse_signatures("") == []


def test_partitions_by_the_kernels_table(tmp_path: Path) -> None:
    for name in ("sdb2", "sdb1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "partition").write_text("1\n")
    (tmp_path / "queue").mkdir()
    assert devices.partitions(tmp_path) == ["sdb1", "sdb2"]
