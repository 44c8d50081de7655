"""The coordinator's gRPC servicers: thin adapters from requests to handler functions.

It must never hold state of its own or decide anything about placement or drift.
"""
