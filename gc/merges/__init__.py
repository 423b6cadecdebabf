"""Merging images that nobody writes to, each kind by its journaled steps."""
