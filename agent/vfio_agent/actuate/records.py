"""What is remembered of an action, so that a crash at any moment can be made good.

Values, and the one thing that a place to keep them must be able to do. An operation is durable
before its first effect, each step's intent before its own effect. This module must never hold a
secret or a path that is not in a plan.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from vfio_agent.actuate.steps import Plan


class State(StrEnum):
    """How far a step, or the whole of an operation, came.

    ALREADY: found done. WAITING: the kernel has not answered yet, and the effect may still come.
    CHANGED: what is there is neither the old nor the new, so nothing was done to it.
    """

    INTENDED = "intended"
    DONE = "done"
    ALREADY = "already"
    FAILED = "failed"
    WAITING = "waiting"
    CHANGED = "changed"
    UNDONE = "undone"


ENDED = frozenset({State.DONE, State.UNDONE})
"""Of an operation: nothing is left to be done. All other states ask for a second run."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One request that was consented to. `id` is the command's, so that it is done once."""

    id: str
    boot_id: str
    plan: Plan


@dataclass(frozen=True, slots=True)
class Entry:
    """One step of an operation (-1: the operation itself). `undoing` when on the way back.

    `detail` is for people; `seconds` how long it took, 0.0 for an intent.
    """

    operation: str
    step: int
    state: State
    detail: str = ""
    seconds: float = 0.0
    undoing: bool = False


class Diary(Protocol):
    """Where operations and entries are kept. Each call returns when it is on disk, or raises."""

    def begin(self, operation: Operation) -> None:
        """Keep the operation; one with this id that is there already stays as it is."""

    def note(self, entry: Entry) -> None:
        """Keep what happened to a step."""
