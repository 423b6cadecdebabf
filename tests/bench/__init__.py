"""Measurements as ratios of one run: `python -m tests.bench [NAME...] [--json]`."""
