"""`vfioctl events`: the cluster's log."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import click

from vfio_cli import terminal
from vfio_cli.client import Behind, Coordinator, connect
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.follow import Break, follow
from vfio_cli.help import Taught
from vfio_cli.output import (
    DOCUMENTS,
    WITHOUT_NAME,
    emit,
    make_document,
    output_option,
    write_next,
)
from vfio_cli.screens.events import event_lines, events_screen
from vfio_contract.artifact import to_plain
from vfio_contract.views import Event, WatchCursor, WatchKind

PAGE = 1_000
"""The coordinator's own limit for one answer."""

DEFAULT_LAST = 50

MAX_SEQ = 2**63 - 1
"""Numbers of the log are int64 on the wire."""


@click.command(
    "events",
    cls=Taught,
    examples=(
        "vfioctl events",
        "vfioctl events --node pve07 --last 200",
        "vfioctl events --follow             as they come",
        "vfioctl events --follow --since 4711 -o json",
    ),
    exits="0 shown, 3 the coordinator cannot be reached, 64 no such node or wrong usage.",
)
@click.option(
    "--node", default="", metavar="NODE", shell_complete=complete_node, help="Only this node."
)
@click.option(
    "--last",
    type=click.IntRange(1, 10_000),
    default=DEFAULT_LAST,
    show_default=True,
    help="How many, counted from the newest.",
)
@click.option(
    "--since",
    type=click.IntRange(0, MAX_SEQ),
    metavar="SEQ",
    help="All that are kept after this number (seq of -o wide and json), instead of the last.",
)
@click.option(
    "--follow",
    "--watch",
    "follows",
    is_flag=True,
    help="Go on and print new events as they come, each once, until Ctrl-C.",
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def events(
    node: str,
    last: int,
    since: int | None,
    follows: bool,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """What happened in the cluster, when, and who did it; oldest first."""
    if follows and since is not None:
        _tell_if_ahead(since, node, endpoint, tls)
        _follow(since, node, form, endpoint, tls)
    with connect(endpoint, tls) as coordinator:
        if since is None:
            found, newest = _newest(coordinator, node=node, last=last)
        else:
            found, newest = _after(coordinator, node=node, after=since)
    if follows:
        _print(found, form)
        _follow(newest, node, form, endpoint, tls)
    emit(
        form,
        screen=lambda wide: events_screen(found, wide=wide, since=since or 0, newest=newest),
        document=lambda: make_document("events", events=found, last_seq=newest),
    )
    return 0


def _tell_if_ahead(since: int, node: str, endpoint: str | None, tls: str | None) -> None:
    """A number that the log has not reached makes a silence that looks like quiet."""
    with connect(endpoint, tls) as coordinator:
        _, newest = coordinator.list_events(after_seq=since, limit=1, node=node)
    if since > newest:
        of = f" --node {node}" if node else ""
        terminal.note(
            f"vfioctl: the newest event is {newest}: nothing is shown before {since + 1}; "
            f"for what comes from now on: vfioctl events --follow --since {newest}{of}"
        )


def _follow(after: int, node: str, form: str, endpoint: str | None, tls: str | None) -> NoReturn:
    """Events after a number as they come, over restarts of the coordinator."""
    cursor = WatchCursor(incarnation=0, epoch=0, seq=0, event_seq=after)
    words = follow(
        lambda: connect(endpoint, tls), kinds=(WatchKind.EVENTS,), cursor=cursor, node=node
    )
    lost = False
    for word in words:
        if isinstance(word, Break):
            # once, not for each attempt to come back; what is no longer kept is another matter
            if not lost or isinstance(word.stop, Behind):
                why = word.stop.format_message().rstrip(".")
                terminal.note(f"vfioctl: {why}; going on after what was shown")
            lost = not isinstance(word.stop, Behind)
        elif word is not None:
            if lost:
                terminal.note("vfioctl: connected again")
            lost = False
            _print(word.events, form)
    raise AssertionError("a stream does not end by itself")


def _newest(coordinator: Coordinator, *, node: str, last: int) -> tuple[list[Event], int]:
    """The newest `last` events, oldest first, and the highest number of the log."""
    _, highest = coordinator.list_events(after_seq=0, limit=1, node=node)
    # Of one node only: its events may lie far back, so all are read.
    start = 0 if node else max(highest - last, 0)
    found, highest = _after(coordinator, node=node, after=start)
    return found[-last:], highest


def _after(coordinator: Coordinator, *, node: str, after: int) -> tuple[list[Event], int]:
    found: list[Event] = []
    while True:
        page, highest = coordinator.list_events(after_seq=after, limit=PAGE, node=node)
        found.extend(page)
        if len(page) < PAGE:
            return found, highest
        after = page[-1].seq


def _print(rows: Sequence[Event], form: str) -> None:
    for event in rows:
        if form in DOCUMENTS:
            write_next(form, to_plain(event))
        else:
            terminal.show(event_lines(event, wide=form == "wide"))
