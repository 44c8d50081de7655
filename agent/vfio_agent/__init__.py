"""The node agent: collects evidence on one host, judges it and streams both.

It runs on every hypervisor and must be useful there without any server. It must never
change a host while it looks at it, nor import the coordinator or the command line.
"""
