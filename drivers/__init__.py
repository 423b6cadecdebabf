"""SR drivers: one file per storage type, and one line in `registry`."""
