"""A volume with names as an existing installation writes it, by hand."""

from __future__ import annotations

SR = "5a9c7c0e-2a41-4b6f-9a53-6f2d1c0e9b77"


def sector(text: str | bytes) -> bytes:
    """One sector of another manager."""
    raw = text.encode("utf-8") if isinstance(text, str) else text
    assert len(raw) <= 512
    return raw.ljust(512)


def second(identity: str, *, deleted: int = 0, snapshot_of: str = "", snapshot: int = 0) -> str:
    """The second sector of a disk of another manager."""
    return (
        f"<uuid>{identity}</uuid><is_a_snapshot>{snapshot}</is_a_snapshot>"
        f"<snapshot_of>{snapshot_of}</snapshot_of>"
        "<snapshot_time>20240131T12:00:00Z</snapshot_time><type>user</type>"
        "<vdi_type>vhd</vdi_type><read_only>0</read_only><managed>1</managed>"
        f"<metadata_of_pool></metadata_of_pool><deleted>{deleted}</deleted></vdi>"
    )


def first(label: str, description: str = "") -> str:
    """The first sector of a disk of another manager."""
    return (
        f"<vdi><name_label>{label}</name_label><name_description>{description}</name_description>"
    )


def of_others(*disks: tuple[str | bytes, str | bytes]) -> bytes:
    """What is in use of a volume that an existing installation wrote."""
    length = 2048 + 1024 * len(disks)
    head = [
        f"XSSM:{length:<10}:1:2",
        f'<?xml version="1.0" ?><uuid>{SR}</uuid><allocation>thick</allocation>',
        "<name_label>Local &amp; slow</name_label>",
        "<name_description>Größe</name_description>",
    ]
    return b"".join(map(sector, [*head, *(part for disk in disks for part in disk)]))
