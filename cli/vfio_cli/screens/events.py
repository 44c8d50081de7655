"""The screen of `vfioctl events`: the cluster's log, oldest first, each row with who did it."""

from __future__ import annotations

from collections.abc import Sequence

from vfio_cli.screens.layout import UNLIMITED, WIDTH, Line, Lines, clean, cut, wrap
from vfio_contract.views import Event

_FRONT = len("11-22 14:24:07  ")


def events_screen(
    events: Sequence[Event], *, wide: bool = False, since: int = 0, newest: int = 0
) -> Lines:
    """Two lines an event at most widths: when and what, then the words below.

    `since` is the number after which they were asked for, 0 for none; `newest` the log's last.
    """
    if not events:
        after = f" after {since}; the newest of the log is {newest}" if since else ""
        return [Line(f"No events{after}.")]
    return [line for event in events for line in event_lines(event, wide=wide)]


def event_lines(event: Event, *, wide: bool = False) -> Lines:
    """One event."""
    day, _, time = event.at.partition("T")
    when = f"{day[5:]} {time[:8]}" if time else clean(event.at)
    subject = event.subject.removeprefix("node:")
    if wide:
        text = (
            f"{event.seq:>8}  {event.at}  {clean(event.subject):<24}  {clean(event.code):<20}  "
            f"{clean(event.actor):<24}  {clean(event.text)}"
        )
        return [Line(text)]
    head = f"{when}  {cut(subject, 20)}  {clean(event.code)}"
    if event.actor:
        head += f"  by {cut(event.actor, 28)}"
    lines: Lines = [Line(head)]
    return [*lines, *wrap(" " * _FRONT, event.text, width=UNLIMITED if wide else WIDTH)]
