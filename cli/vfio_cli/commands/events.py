"""`vfioctl events`: the cluster's log."""

from __future__ import annotations

import json

import click

from vfio_cli import terminal
from vfio_cli.client import Coordinator, connect
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.events import event_lines, events_screen
from vfio_contract.artifact import to_plain
from vfio_contract.views import Event

PAGE = 1_000
"""The coordinator's own limit for one answer."""

DEFAULT_LAST = 50


@click.command(
    "events",
    cls=Taught,
    examples=(
        "vfioctl events",
        "vfioctl events --node pve07 --last 200",
        "vfioctl events --watch              as they come",
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
    "--watch", is_flag=True, help="Go on and print new events as they come, until Ctrl-C."
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def events(
    node: str, last: int, watch: bool, form: str, endpoint: str | None, tls: str | None
) -> int:
    """What happened in the cluster, when, and who did it; oldest first."""
    if watch and form == "yaml":
        raise Mistake("--watch prints events one by one: use -o table, wide or json (a line each)")
    with connect(endpoint, tls) as coordinator:
        found, after = _newest(coordinator, node=node, last=last)
        if not watch:
            emit(
                form,
                screen=lambda wide: events_screen(found, wide=wide),
                document=lambda: make_document("events", events=found, last_seq=after),
            )
            return 0
        _print(found, form)
        while True:
            terminal.pause()
            try:
                fresh, after = _after(coordinator, node=node, after=after)
            except Stop as stop:
                terminal.note(f"vfioctl: {stop.format_message()}")
                continue
            _print(fresh, form)


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
            return found, max(highest, after)
        after = page[-1].seq


def _print(rows: list[Event], form: str) -> None:
    for event in rows:
        if form == "json":
            terminal.write(json.dumps(to_plain(event)) + "\n")
        else:
            terminal.show(event_lines(event, wide=form == "wide"))
