"""`vfioctl baseline ...`: what a node was accepted as, and what differs from it now."""

from __future__ import annotations

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.baseline import accepted_screen, baseline_screen
from vfio_cli.screens.diff import verdict_words


@click.group("baseline", no_args_is_help=True)
def baseline() -> None:
    """What a node was accepted as, and what differs from it now."""


node_argument = click.argument("node", metavar="NODE", shell_complete=complete_node)


@baseline.command(
    "show",
    cls=Taught,
    examples=("vfioctl baseline show pve07", "vfioctl baseline show pve07 -o json"),
    exits="0 nothing that matters differs, 1 something differs but nothing was lost, 2 isolation "
    "or function was lost (also: no baseline), 3 not known (the node is not heard) or the "
    "coordinator cannot be reached, 64 no such node or wrong usage.",
)
@node_argument
@output_option(*WITHOUT_NAME)
@coordinator_options
def show(node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Show the accepted baseline and what differs from it now."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.show_baseline(node)
    emit(
        form,
        screen=lambda wide: baseline_screen(found, wide=wide),
        document=lambda: make_document("baseline", baseline=found),
    )
    if not found.compared:
        return UNKNOWN
    _, tone = verdict_words(found.drift, comparable=True)
    return {"bad": FAILURE, "warn": WARNING}.get(tone, OK)


@baseline.command(
    "accept",
    cls=Taught,
    examples=("vfioctl baseline accept pve07",),
    exits="0 accepted, 2 no inventory of this boot, 3 the coordinator cannot be reached, 64 no "
    "such node or wrong usage.",
)
@node_argument
@output_option(*WITHOUT_NAME)
@coordinator_options
def accept(node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Accept a node's present facts as known-good. Read what differs first: baseline show."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.accept_baseline(node)
    emit(
        form,
        screen=lambda _: accepted_screen(found),
        document=lambda: make_document("baseline", baseline=found),
    )
    return OK
