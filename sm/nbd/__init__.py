"""The NBD protocol and a server for it."""
