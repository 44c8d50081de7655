"""`vfioctl mute ...`: health codes that somebody does not want to hear of for a while.

A mute keeps a code out of the roll-up word, the exit code and notifications, and changes nothing
else. What it may cover and for how long is for the coordinator to judge.
"""

from __future__ import annotations

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_health_code, complete_muted_code, complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import OK, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.mute import added_screen, list_screen, removed_screen

_CHANGE_EXITS = (
    "0 done, 2 not allowed, 3 the coordinator cannot be reached, 64 no such node or mute, or wrong "
    "usage."
)


@click.group("mute", no_args_is_help=True)
def mute() -> None:
    """Health codes that somebody does not want to hear of for a while.

    What is muted stays on the status screen and counts neither in its roll-up nor in its exit
    code. It ends by itself, and at once when it gets worse. Placement never changes.
    """


@mute.command(
    "add",
    cls=Taught,
    examples=(
        'vfioctl mute add NODE_LOST --node pve07 --reason "new board" --for 6h',
        "vfioctl mute add ACS_OVERRIDE --reason TICKET-12 --until 2027-03-01",
    ),
    exits=_CHANGE_EXITS,
)
@click.argument("code", metavar="CODE", shell_complete=complete_health_code)
@click.option(
    "--node",
    default="",
    metavar="NODE",
    shell_complete=complete_node,
    help="Only on this node; also before the code is there, for planned work.",
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever comes next.")
@click.option("--for", "duration", metavar="TIME", help="Such as 4h, 3d or 2w [default 4h].")
@click.option(
    "--until", metavar="DATE", help="A day (to its end, UTC) such as 2027-03-01; 90 days at most."
)
@output_option()
@coordinator_options
def add(
    code: str,
    node: str,
    reason: str,
    duration: str | None,
    until: str | None,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """Mute a code. It breaks when the level rises, on another node, or with another VM at risk."""
    if duration and until:
        raise Mistake("--for and --until say the same: give one of them")
    if "" in (duration, until):
        raise Mistake("--for or --until is empty: give a value, or leave the option out")
    end = duration or until or ""
    with connect(endpoint, tls) as coordinator:
        before = coordinator.list_mutes()
        found = coordinator.add_mute(code.upper(), node=node, reason=reason, until=end)
    known = [m for m in before if (m.code, m.node) == (found.code, found.node)]
    emit(
        form,
        screen=lambda _: added_screen(found, instead_of=known[0] if known else None),
        document=lambda: make_document("mute", mute=found),
        names=lambda: [found.code],
    )
    return OK


@mute.command(
    "list",
    cls=Taught,
    examples=("vfioctl mute list", "vfioctl mute list -o wide"),
    exits="0 listed, 3 the coordinator cannot be reached, 64 wrong usage.",
)
@output_option()
@coordinator_options
def list_(form: str, endpoint: str | None, tls: str | None) -> int:
    """List the mutes in force. How earlier ones ended: vfioctl events."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.list_mutes()
    emit(
        form,
        screen=lambda wide: list_screen(found, wide=wide),
        document=lambda: make_document("mutes", mutes=found),
        names=lambda: [m.code for m in found],
    )
    return OK


@mute.command(
    "remove",
    cls=Taught,
    examples=(
        "vfioctl mute remove ACS_OVERRIDE",
        "vfioctl mute remove NODE_LOST --node pve07",
    ),
    exits=_CHANGE_EXITS,
)
@click.argument("code", metavar="CODE", shell_complete=complete_muted_code)
@click.option(
    "--node", default="", metavar="NODE", shell_complete=complete_node, help="The mute's node."
)
@output_option()
@coordinator_options
def remove(code: str, node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """End a mute before its time: that of all nodes, or with --node that of one."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.remove_mute(code.upper(), node=node)
    emit(
        form,
        screen=lambda _: removed_screen(found),
        document=lambda: make_document("mute", mute=found),
        names=lambda: [found.code],
    )
    return OK
