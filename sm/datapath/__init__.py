"""The processes that serve active disks: how to reach them, and how they follow their chains."""
