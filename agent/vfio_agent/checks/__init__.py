"""The checks: one file each, one pure function each, from a Snapshot to a Finding.

This package must never read a file, a clock or the network, and never take the absence
of evidence for a PASS.
"""
