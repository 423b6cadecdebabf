"""What is kept of a collector for others to read: what it does, what it did, what admins want."""
