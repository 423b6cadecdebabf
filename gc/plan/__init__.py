"""What should be done, what it would cost, and what of it begins now; from values and tables."""
