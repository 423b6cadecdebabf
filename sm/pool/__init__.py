"""The pool database: records of hosts, SRs, PBDs and VDIs, behind one interface."""
