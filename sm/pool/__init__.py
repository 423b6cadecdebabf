"""The pool database: records of hosts, SRs, PBDs, VDIs and tasks, behind one interface.

`base` holds the interface, `embedded` keeps the records in a database of ours, `xapi` talks to a
real XAPI, and `open` chooses between the two.
"""
