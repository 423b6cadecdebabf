"""Disks served by qemu-storage-daemon: one process each, over QMP and NBD."""
