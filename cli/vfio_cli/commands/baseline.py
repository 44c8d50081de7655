"""`vfioctl baseline ...`: what a node was accepted as, when, and what differs from it now."""

from __future__ import annotations

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.baseline import (
    accepted_screen,
    baseline_screen,
    history_screen,
    refused_screen,
)
from vfio_cli.screens.diff import verdict_words
from vfio_contract.baseline_views import BaselineRefusal


@click.group("baseline", no_args_is_help=True)
def baseline() -> None:
    """What a node was accepted as, and what differs from it now.

    A baseline is of one firmware: a node that goes back to an earlier one is compared with what was
    accepted there.
    """


node_argument = click.argument("node", metavar="NODE", shell_complete=complete_node)


@baseline.command(
    "show",
    cls=Taught,
    examples=("vfioctl baseline show pve07", "vfioctl baseline show pve07 -o json"),
    exits="0 nothing that matters differs, 1 something differs but nothing was lost, or a line of "
    "a VM's configuration means another device now, 2 isolation "
    "or function was lost (also: no baseline), 3 not known (the node is not heard, tells less than "
    "the baseline knows, or the baseline is of another machine) or the coordinator cannot be "
    "reached, 64 no such node or wrong usage.",
)
@node_argument
@output_option(*WITHOUT_NAME)
@coordinator_options
def show(node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Show the baseline in force and what differs from it now."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.show_baseline(node)
    emit(
        form,
        screen=lambda wide: baseline_screen(found, wide=wide),
        document=lambda: make_document("baseline", baseline=found),
    )
    if not found.compared:
        return UNKNOWN
    _, tone = verdict_words(found.drift, comparable=not found.unread)
    worst = {"bad": FAILURE, "unsure": UNKNOWN, "warn": WARNING}
    return worst.get(tone, WARNING if found.stale else OK)


@baseline.command(
    "accept",
    cls=Taught,
    examples=(
        "vfioctl baseline accept pve07",
        'vfioctl baseline accept pve07 --force --reason "slot 2 is empty on purpose"',
        "vfioctl baseline accept pve07 --digest sha256:...",
    ),
    exits="0 accepted, 2 the host is broken or there is no inventory of this boot, 3 the "
    "coordinator cannot be reached, 64 no such node or wrong usage.",
)
@node_argument
@click.option("--force", is_flag=True, help="Accept a broken host too; needs --reason.")
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever comes next.")
@click.option(
    "--digest", default="", metavar="DIGEST", help="Accept what `baseline show` showed, or nothing."
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def accept(
    node: str,
    force: bool,
    reason: str,
    digest: str,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """Accept a node's present facts as known-good. Read what differs first: baseline show.

    A host is broken when a unit that is intended or claimed does not pass every gate, when
    something was lost against the baseline, or when a VM names an address that its device left.
    """
    if force and not reason.strip():
        raise Mistake("--force: say why, for whoever comes next: --reason TEXT")
    if reason and not force:
        raise Mistake("--reason: only a forced baseline has one: add --force, or leave it out")
    with connect(endpoint, tls) as coordinator:
        found = coordinator.accept_baseline(node, force=force, reason=reason, digest=digest)
    if isinstance(found, BaselineRefusal):
        refusal = found
        emit(
            form,
            screen=lambda wide: refused_screen(refusal, wide=wide),
            document=lambda: make_document(
                "baseline", node=refusal.node, baseline=None, problems=refusal.problems
            ),
        )
        return FAILURE
    view = found
    emit(
        form,
        screen=lambda _: accepted_screen(view),
        document=lambda: make_document("baseline", baseline=view),
    )
    return OK


@baseline.command(
    "history",
    cls=Taught,
    examples=("vfioctl baseline history pve07", "vfioctl baseline history pve07 -o json"),
    exits="0 shown, 2 no baseline, 3 the coordinator cannot be reached, 64 no such node or wrong "
    "usage.",
)
@node_argument
@output_option(*WITHOUT_NAME)
@coordinator_options
def history(node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Show who accepted a node, when, under which firmware."""
    with connect(endpoint, tls) as coordinator:
        name, rows = coordinator.list_baselines(node)
    emit(
        form,
        screen=lambda wide: history_screen(name, rows, wide=wide),
        document=lambda: make_document("baselines", node=name, baselines=rows),
    )
    return OK
