"""The garbage collector: deletes and merges the images that no VDI needs any more."""
