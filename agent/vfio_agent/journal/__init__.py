"""The agent's journal: what must survive a crash, an upgrade and a kernel log that rolled over.

It holds the agent's own state id, the highest fence it ever obeyed, the reset history of this
host's devices (`journal`, `attempts`), the spool of durable events (`spool`), what was asked of the
hands (`actions`) and what they did (`diary`), in one file (`database`) and so, where two belong
together, in one transaction. The only package of the agent that knows SQLite.
"""

from __future__ import annotations

from vfio_agent.fence import NO_FENCE, Fence
from vfio_agent.journal.actions import Actions, Kept, Loss
from vfio_agent.journal.database import JournalError, JournalFull
from vfio_agent.journal.journal import SEEN_LIMIT, Journal
from vfio_agent.journal.schema import SCHEMA_VERSION
from vfio_agent.journal.spool import Reservation, Spool, SpoolFull
from vfio_agent.journal.spool_rows import Bounds
from vfio_contract.ledger import KEPT_ATTEMPTS

__all__ = [
    "KEPT_ATTEMPTS",
    "NO_FENCE",
    "SCHEMA_VERSION",
    "SEEN_LIMIT",
    "Actions",
    "Bounds",
    "Fence",
    "Journal",
    "JournalError",
    "JournalFull",
    "Kept",
    "Loss",
    "Reservation",
    "Spool",
    "SpoolFull",
]
