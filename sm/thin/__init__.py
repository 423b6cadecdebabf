"""Volumes of disks in use grow as they are written, and users wait where there is no room."""
