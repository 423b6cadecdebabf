"""Calls from host to host: XML-RPC over a Unix socket, or TLS with certificates on both sides.

What may be asked, and what it means, is in `sm.hosts`.
"""
