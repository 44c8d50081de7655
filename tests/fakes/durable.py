"""Durable events for tests: each carries a number of its own, which can be read in the event log.

The number is not the spool's: it says whether what was appended arrived, once and in order.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from vfio_contract.durable import (
    ActionEnded,
    DurableEvent,
    KernelLine,
    Payload,
    ResetAttempted,
    Stamp,
)
from vfio_contract.views import Event as LogRow

BOOT = "boot-1"

_NUMBER = re.compile(r"\bn=(\d+)\b")


def moment(number: int, boot: str = BOOT) -> Stamp:
    """Every number its own millisecond, in November 2026."""
    return Stamp(boot, 1_000 + number, 1_795_000_000_000 + number)


def about(number: int, payload: Payload) -> DurableEvent:
    return DurableEvent(moment(number), f"dsn-{number % 3}.0", "0000:01:00.0", payload)


def line(number: int) -> DurableEvent:
    """One that may be dropped."""
    return about(number, KernelLine("aer", f"n={number}", 0))


def reset(number: int, outcome: str = "failed") -> DurableEvent:
    """One that must not be dropped."""
    return about(number, ResetAttempted(f"k{number}", "F10", "flr", outcome, f"n={number}", ""))


def ended(number: int) -> DurableEvent:
    """How an action ended."""
    return about(number, ActionEnded(f"c{number}", "bind", "done", f"n={number}"))


def numbers_in(rows: Iterable[LogRow]) -> list[int]:
    """The numbers of the events among these rows, in their order."""
    found = (_NUMBER.search(row.text) for row in rows)
    return [int(match[1]) for match in found if match]
