"""Notifications that did not reach everybody: shown, written down once, and tried again.

A target that takes nothing is trouble of its own: whoever relies on being told must see it here.
It stands until a notification reached all that it was meant for. What reached nobody is tried again
after a while; what is muted or closed by then is not. Nothing here tells anybody.
"""

from __future__ import annotations

import math
from dataclasses import replace

from vfio_contract.codes import NOTIFY_FAILED
from vfio_coordinator.state.events import NotifyEnded
from vfio_coordinator.state.incident_notices import notify_all
from vfio_coordinator.state.turn import Turn

AGAIN_S = 600.0
"""After each target was given up, which itself takes minutes (`notify.ATTEMPTS`)."""

_AUTO = f"auto:{NOTIFY_FAILED.name}"
_OVER = "over: a notification reached everybody it was meant for"
_MAX_TEXT = 300


def follow_telling(turn: Turn, event: NotifyEnded) -> None:
    """One row of the event log when trouble begins, and one when it is over."""
    state, trouble = turn.state, event.detail[:_MAX_TEXT]
    if bool(trouble) != bool(state.notify_trouble):
        turn.note("cluster", NOTIFY_FAILED.name, trouble or _OVER, _AUTO)
    again_s = state.notify_again_s
    if not event.ok:
        again_s = min(again_s, turn.now.monotonic_s + AGAIN_S)
    turn.state = replace(state, notify_trouble=trouble, notify_again_s=again_s)


def tell_again(turn: Turn) -> None:
    """Try what reached nobody, once its time has come."""
    if turn.now.monotonic_s >= turn.state.notify_again_s:
        turn.state = replace(turn.state, notify_again_s=math.inf)
        notify_all(turn)
