"""What the coordinator tells of acceptances: each one that is kept, and why one was refused.

Field names are those of the messages in views.proto; codec converts.
"""

from __future__ import annotations

from dataclasses import dataclass

SHORTEST_DIGEST = 19
"""Of facts that a person accepts: `sha256:` and twelve digits, as the screens show it."""


@dataclass(frozen=True, slots=True)
class BaselineProblem:
    """Something that speaks against accepting a node as it is: a code, whom it concerns, words.

    `next` is what to do about it, "" where only `vfioctl explain CODE` says it.
    """

    code: str
    subject: str
    text: str
    next: str = ""


@dataclass(frozen=True, slots=True)
class BaselineRow:
    """One acceptance.

    `accepted_by` is a user's name or `auto:POLICY`. `firmware` are `part: value` lines. `passed`
    are ids of units that passed every gate. `reason` is why it was forced, "" where it was not.
    `facts_kept` is False once a newer acceptance of the same firmware took its place.
    """

    number: int
    accepted_at: str
    accepted_by: str
    digest: str
    firmware: tuple[str, ...]
    passed: tuple[str, ...]
    reason: str
    agent_version: str
    in_force: bool
    facts_kept: bool


@dataclass(frozen=True, slots=True)
class BaselineRefusal:
    """A baseline that was not accepted; nothing has changed. Not a message of its own."""

    node: str
    problems: tuple[BaselineProblem, ...]
