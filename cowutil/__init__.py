"""Image formats: facts and operations over one image file or block device.

Knows no SR, no pool and no lock. Child processes come in from outside as a `ToolRunner`.
"""
