"""Chains of VHDs served over NBD by a process of our own."""
