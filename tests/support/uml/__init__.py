"""A guest with a real device-mapper: tests of LVM where this machine's kernel has none."""
