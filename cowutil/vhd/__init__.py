"""The VHD format: native reading, writing, chains, growth, check and repair.

Format facts come from the Virtual Hard Disk Image Format Specification (Microsoft, 2006) and from
what blktap writes beyond it: the hidden byte of the footer and the batmap.
"""
