"""The doctor: what is wrong with an SR, why it matters, and what mends it."""
