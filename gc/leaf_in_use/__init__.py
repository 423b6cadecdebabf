"""Merging the leaf of a disk while its guest writes."""
