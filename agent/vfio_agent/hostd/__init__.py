"""The half of the agent that looks at the host, and the socket between it and the other half.

`hostd` collects, judges, keeps the journal, and answers typed requests over a local socket; it has
no network. The network process (`vfio_agent.network`) keeps the session with the coordinator and
reads nothing of the host. `frames`, `messages` and `client` are what both sides load: they must
never import what only one of them may have (docs/adr/012).
"""
