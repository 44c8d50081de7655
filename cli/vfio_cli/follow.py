"""Following the cluster: one stream of changes over any number of connections.

A stream that breaks is opened again after the last change that was received, so nothing is told
twice and nothing is left out; where the coordinator no longer has what followed, that is said. It
must never go on in silence: every break is handed to the caller before it is mended.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, closing
from dataclasses import dataclass
from random import uniform

from vfio_cli.client import Behind, Changes, Coordinator
from vfio_cli.exits import UNKNOWN, Stop
from vfio_contract.views import ClusterChange, WatchCursor, WatchKind

TICK_S = 0.5
"""The caller hears of the time passing at least so often."""

SILENCE_S = 30.0
"""Three times the coordinator's own interval (`api.watch.BOOKMARK_S`): it is frozen, or away."""

FIRST_WAIT_S = 0.5
LONGEST_WAIT_S = 15.0
"""Waits between attempts double up to this, each with full jitter."""

_FOR_GOOD = frozenset({"UNAUTHENTICATED", "PERMISSION_DENIED", "BAD_REQUEST", "UNKNOWN_NODE"})
"""Refusals that another attempt does not change."""


@dataclass(frozen=True, slots=True)
class Break:
    """The stream broke; what was told before may be old now."""

    stop: Stop


Connect = Callable[[], AbstractContextManager[Coordinator]]


def follow(
    connect: Connect,
    *,
    kinds: Sequence[WatchKind],
    cursor: WatchCursor | None = None,
    node: str = "",
) -> Iterator[ClusterChange | Break | None]:
    """Changes as they come, for ever; a Break for each lost stream; None when time passed.

    Raises Stop where there is nothing to follow: the first attempt failed, or nobody may.
    """
    told, failures = False, 0
    while True:
        try:
            with (
                connect() as coordinator,
                closing(coordinator.watch(kinds=kinds, cursor=cursor, node=node)) as changes,
            ):
                for change in _listen(changes):
                    if change is not None:
                        cursor, told, failures = change.cursor, True, 0
                    yield change
        except Behind as behind:
            cursor = behind.resume
            yield Break(behind)
        except Stop as stop:
            if not told or stop.code in _FOR_GOOD:
                raise
            yield Break(stop)
        yield from _wait(uniform(0, min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0 ** min(failures, 8))))
        failures += 1


def _listen(changes: Changes) -> Iterator[ClusterChange | None]:
    """Until the stream ends, which is a Stop."""
    heard_s = time.monotonic()
    while True:
        change = changes.next(TICK_S)
        now_s = time.monotonic()
        if change is not None:
            heard_s = now_s
        elif now_s - heard_s > SILENCE_S:
            raise Stop(f"no word from the coordinator for {SILENCE_S:.0f}s", status=UNKNOWN)
        yield change


def _wait(seconds: float) -> Iterator[None]:
    end_s = time.monotonic() + seconds
    while (left_s := end_s - time.monotonic()) > 0:
        time.sleep(min(left_s, TICK_S))
        yield None
