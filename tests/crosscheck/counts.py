"""How many images are compared with other people's readers; documents quote these."""

from __future__ import annotations

QCOW2_CHAINS = 60
QCOW2_PACKED = 15
QCOW2_WRITTEN = 15
QCOW2_DAMAGED = 50
VHD_CHAINS = 60
VHD_FOREIGN = 60
VHD_OF_QEMU = 20

IMAGES = 500
"""At least so many images in all, the members of chains counted one by one."""
