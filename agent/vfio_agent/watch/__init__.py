"""Watch: noticing by itself, at once and cheaply, that something on this host has changed.

Sources say where to look again (`signals`), a schedule when, a flood gate how much the kernel's own
words may be repeated. Nothing here opens what a collector reads, apart from the kernel log.
"""

from __future__ import annotations

from vfio_agent.watch.device_events import DeviceEvent
from vfio_agent.watch.signals import Happening, LinesLost, Part, Sign, Wanted, want
from vfio_agent.watch.watch import Batch, Place, Watch, open_watch, replay_watch

__all__ = [
    "Batch",
    "DeviceEvent",
    "Happening",
    "LinesLost",
    "Part",
    "Place",
    "Sign",
    "Wanted",
    "Watch",
    "open_watch",
    "replay_watch",
    "want",
]
