"""`vfioctl incident ...`: one cause seen on several nodes, its common factor, and what to do.

What belongs together and what its nodes have in common is the coordinator's to say; here it is
shown. The exit code is that of the worst incident that is open.
"""

from __future__ import annotations

from collections.abc import Iterable

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_incident
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.incidents import acked_screen, list_screen, show_screen
from vfio_contract.incident_views import IncidentView

_LISTED = 50

_EXITS = (
    "0 nothing open, 1 a warning is, 2 an error is, 3 the coordinator cannot be reached, 64 "
    "wrong usage."
)


@click.group("incident", no_args_is_help=True)
def incident() -> None:
    """Troubles that several nodes have for the same reason, one each.

    Nodes that show the same code after the same change (BIOS, kernel, agent) are one incident. It
    names the common factor, the nodes that speak against it, and those still to be updated.
    """


@incident.command(
    "list",
    cls=Taught,
    examples=("vfioctl incident list", "vfioctl incident list --all --limit 200 -o wide"),
    exits=_EXITS,
)
@click.option("--all", "closed", is_flag=True, help="Closed ones too, newest first.")
@click.option(
    "--limit",
    type=click.IntRange(1, 500),
    default=_LISTED,
    show_default=True,
    help="How many at most.",
)
@output_option()
@coordinator_options
def list_(closed: bool, limit: int, form: str, endpoint: str | None, tls: str | None) -> int:
    """List the open incidents, worst first."""
    with connect(endpoint, tls) as coordinator:
        found, total, at = coordinator.list_incidents(closed=closed, limit=limit)
    emit(
        form,
        screen=lambda wide: list_screen(found, total=total, at=at, closed=closed, wide=wide),
        document=lambda: make_document("incidents", incidents=found, total=total),
        names=lambda: [view.id for view in found],
    )
    return _exit_code(found)


@incident.command(
    "show",
    cls=Taught,
    examples=("vfioctl incident show INC-7", "vfioctl incident show 7 --all"),
    exits=(
        "0 it is closed, 1 a warning, 2 an error, 3 the coordinator cannot be reached, 64 no such "
        "incident or wrong usage."
    ),
)
@click.argument("incident_id", metavar="ID", shell_complete=complete_incident)
@click.option("--all", "full", is_flag=True, help="Every node by name.")
@output_option()
@coordinator_options
def show(incident_id: str, full: bool, form: str, endpoint: str | None, tls: str | None) -> int:
    """Show one incident and what to do about it.

    Its nodes and VMs, their common factor, who is fine with it, who is still to be updated.
    """
    with connect(endpoint, tls) as coordinator:
        found, at = coordinator.show_incident(incident_id)
    emit(
        form,
        screen=lambda wide: show_screen(found, at=at, full=full or wide),
        document=lambda: make_document("incident", incident=found),
        names=lambda: [member.node for member in found.members],
    )
    return _exit_code([found])


@incident.command(
    "ack",
    cls=Taught,
    examples=('vfioctl incident ack INC-7 --reason "holding F11 back, BIOS vendor asked"',),
    exits=(
        "0 done, 2 not allowed, 3 the coordinator cannot be reached, 64 no such incident, it is "
        "closed, or wrong usage."
    ),
)
@click.argument("incident_id", metavar="ID", shell_complete=complete_incident)
@click.option("--reason", metavar="TEXT", help="For whoever comes next; the last one stands.")
@output_option()
@coordinator_options
def ack(
    incident_id: str, reason: str | None, form: str, endpoint: str | None, tls: str | None
) -> int:
    """Say that you have seen it. Nobody is told again unless it gets worse."""
    if reason is not None and not reason.strip():
        raise Mistake("--reason is empty: say why, or leave the option out")
    with connect(endpoint, tls) as coordinator:
        found = coordinator.ack_incident(incident_id, reason=reason or "")
    emit(
        form,
        screen=lambda _: acked_screen(found),
        document=lambda: make_document("incident", incident=found),
        names=lambda: [found.id],
    )
    return OK


def _exit_code(incidents: Iterable[IncidentView]) -> int:
    levels = {view.level for view in incidents if view.state == "open"}
    if not levels:
        return OK
    return WARNING if levels == {"WARN"} else FAILURE
