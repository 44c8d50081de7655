"""How actions reach a host: a fresh look, the owner's file, the hands, and resets.

One value, so that what acts is the same on a running host and on one that only exists as files. A
captured host can be looked at and not touched: whoever replays one must never move the real one.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from vfio_agent.actuate.allowance import Allowance, AllowanceError, load_allowance
from vfio_agent.actuate.hands import Hands
from vfio_agent.actuate.reset_trial import ResetResult, try_reset
from vfio_agent.collect.kernel import collect_boot_id
from vfio_agent.collect.reader import Reader
from vfio_agent.collect.root import Root, open_root
from vfio_contract.address import Address
from vfio_contract.host import Host

Look = Callable[[], tuple[Root, Host]]


class Reset(Protocol):
    """`reset_trial.try_reset`, or something that answers like it."""

    def __call__(self, host: Host, target: Address, *, operation: str) -> ResetResult:
        """Reset it; `operation` keys the rows of the reset history."""


@dataclass(frozen=True, slots=True)
class Reach:
    """A host under the hands. `look` collects it anew; OSError where it cannot.

    `boot_id` is the present boot's, "" where it is not known.
    """

    look: Look
    boot_id: Callable[[], str]
    allow: Callable[[], Allowance]
    hands: Hands
    reset: Reset


def reach_host(root: str, look: Callable[[Root], Host]) -> Reach:
    """The host at `root`, `/` or a capture; `look` collects one. OSError where it is none.

    The running host is opened once, because its root remembers which reads are blocked; a capture
    anew for each look, because it may have been replaced.
    """
    running = None if os.path.abspath(root).strip("/") else open_root(root)

    def take() -> Root:
        return running or open_root(root)

    def look_anew() -> tuple[Root, Host]:
        taken = take()
        return taken, look(taken)

    def boot_id() -> str:
        return collect_boot_id(Reader(take())) or ""

    allow = allow_here if running else forbid_capture
    return Reach(look_anew, boot_id, allow, Hands(), try_reset)


def forbid_capture() -> Allowance:
    """Nothing is permitted on a host that is replayed."""
    return Allowance(frozenset(), frozenset(), "this agent replays a captured host")


def allow_here() -> Allowance:
    """What the owner of this host permits; a file that cannot be used permits nothing."""
    try:
        return load_allowance()
    except AllowanceError as error:
        return Allowance(frozenset(), frozenset(), str(error))
