"""A wall clock that jumped: shown and written down, while what ends at a date goes by the time from
before (`clock.SteadyClock`, which every moment here has passed). Nothing here may read a clock.
"""

from __future__ import annotations

from dataclasses import replace

from vfio_contract.codes import CLOCK_JUMP
from vfio_coordinator.state.turn import Turn

_BACK = "over: the wall clock is believed again"


def follow_clock(turn: Turn) -> None:
    """One row of the event log when a doubt begins or changes, and one when it is over."""
    doubt = turn.now.doubt
    if doubt == turn.state.clock_doubt:
        return
    turn.note("cluster", CLOCK_JUMP.name, doubt or _BACK, f"auto:{CLOCK_JUMP.name}")
    turn.state = replace(turn.state, clock_doubt=doubt)
