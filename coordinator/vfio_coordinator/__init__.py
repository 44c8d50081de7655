"""The coordinator: the cluster's state, placement, claims, drift and their store.

It runs on one machine, or three. It must never import the agent or the command line, and
never act on evidence that is missing or stale.
"""
