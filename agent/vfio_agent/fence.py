"""The fence: which coordinator is the newest that this agent has ever obeyed.

A value of its own, because the process that speaks with the network compares fences and must not
load the journal that keeps them.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Fence:
    """The highest coordinator this agent has obeyed; the cluster id is "" before the first."""

    cluster_id: str
    incarnation: int
    epoch: int


NO_FENCE = Fence("", 0, 0)
