"""What a guest's disk is called: the reply of vdi_attach, with the SCSI pages that guests remember.

The pages must stay the same over the life of a VDI: Windows takes them for the disk's serial.
"""

from __future__ import annotations

from base64 import b64encode

from sm.datapath.base import Disk
from sm.datapath.links import Links
from sm.repository import Repository
from sm.smapi.xmlrpc import Value
from sm.tree import Node

_STANDARD_INQUIRY = bytes((0x00, 0x00, 0x05, 0x02, 0x1F, 0x00, 0x00, 0x00)) + (
    b"XENSRC  " + b"PVDISK          " + b"1.0 "
)


def attach_reply(repository: Repository, node: Node, sr_type: str) -> Value:
    """How an attached VDI will be reached once it is active: by a file or by an NBD socket."""
    disk, links = Disk(repository.uuid, node.uuid), Links(repository.settings)
    as_file = repository.settings.expose == "fuse"
    nbd = f"nbd:unix:{links.socket(disk)}:exportname={node.uuid}"
    return {
        "params": str(links.file(disk)) if as_file else "",
        "params_nbd": "" if as_file else nbd,
        "o_direct": True,
        "o_direct_reason": "SR_NOT_SUPPORTED",
        "xenstore_data": {
            "vdi-uuid": node.uuid,
            "storage-type": sr_type,
            "vdi-type": node.format,
            "scsi/0x12/default": _base64(_STANDARD_INQUIRY),
            "scsi/0x12/0x80": _base64(serial_page(node.uuid)),
            "scsi/0x12/0x83": _base64(identification_page(node.uuid)),
        },
    }


def serial_page(vdi_uuid: str) -> bytes:
    """SCSI inquiry page 0x80: the first 16 characters of the UUID and two blanks."""
    return bytes((0x00, 0x80, 0x00, 0x12)) + vdi_uuid[:16].encode("ascii") + b"  "


def identification_page(vdi_uuid: str) -> bytes:
    """SCSI inquiry page 0x83: a vendor-specific identifier made of vendor and UUID."""
    head = bytes((0x00, 0x83, 0x00, 0x31, 0x02, 0x01, 0x00, 0x2D))
    return head + b"XENSRC  " + vdi_uuid.encode("ascii") + b" "


def _base64(page: bytes) -> str:
    return b64encode(page).decode("ascii")
