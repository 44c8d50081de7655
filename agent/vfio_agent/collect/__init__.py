"""The only reader of `/sys`, `/proc`, `/dev` and `/etc`: a root folder in, a Snapshot out.

Every path goes through one root, so a captured host reads exactly like a live one. It
must never raise for what a host can look like: what is unreadable becomes a gap.
"""

from vfio_agent.collect.host import collect_host

__all__ = ["collect_host"]
