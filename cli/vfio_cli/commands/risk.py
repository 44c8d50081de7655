"""`vfioctl risk ...`: which risks of a node somebody carries, why, and until when.

A finding such as ACS_OVERRIDE lets no device go to a VM by itself: a decision recorded here permits
it, and the request's --allow asks for it. What a decision must say is for the coordinator to judge.
"""

from __future__ import annotations

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_node, complete_risk
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import OK, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import emit, make_document, output_option
from vfio_cli.screens.risk import accepted_screen, list_screen, revoked_screen
from vfio_cli.selectors import RISK_CODES, RiskChoice

_CHANGE_EXITS = (
    "0 done, 2 not allowed, 3 the coordinator cannot be reached, 64 no such node or decision, or "
    "wrong usage."
)


@click.group("risk", no_args_is_help=True)
def risk() -> None:
    """Risks of a node that somebody carries, why and until when.

    A device with such a risk goes only to a request that says --allow, and only while a decision
    is in force. It ends by itself; running VMs are never touched.
    """


@risk.command(
    "accept",
    cls=Taught,
    examples=(
        'vfioctl risk accept --node pve03 --code ACS_OVERRIDE --reason "one tenant" \\',
        "    --until 2027-03-01",
        "vfioctl risk accept --node pve03 --code RESET_ONE_SHOT --reason lab \\",
        "    --until 90d",
    ),
    exits=_CHANGE_EXITS,
)
@click.option(
    "--node", required=True, metavar="NODE", shell_complete=complete_node, help="The node."
)
@click.option(
    "--code", required=True, type=RiskChoice(RISK_CODES), help="The finding that is accepted."
)
@click.option("--reason", required=True, metavar="TEXT", help="Why, for whoever comes next.")
@click.option(
    "--until",
    required=True,
    metavar="DATE",
    help="A day (to its end, UTC) such as 2027-03-01, or a duration such as 90d, 12w or 36h; two "
    "years at most.",
)
@output_option()
@coordinator_options
def accept(
    node: str, code: str, reason: str, until: str, form: str, endpoint: str | None, tls: str | None
) -> int:
    """Record that you carry a risk of a node. Takes the place of the last decision on it."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.accept_risk(node, code=code, reason=reason, until=until)
    emit(
        form,
        screen=lambda _: accepted_screen(found),
        document=lambda: make_document("risk", risk=found),
        names=lambda: [found.id],
    )
    return OK


@risk.command(
    "list",
    cls=Taught,
    examples=("vfioctl risk list", "vfioctl risk list --node pve03 -o wide"),
    exits="0 listed, 3 the coordinator cannot be reached, 64 no such node or wrong usage.",
)
@click.option(
    "--node", default="", metavar="NODE", shell_complete=complete_node, help="Only this node."
)
@output_option()
@coordinator_options
def list_(node: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """List the last decision about each risk, ended ones too. Earlier ones: vfioctl events."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.list_risks(node)
    emit(
        form,
        screen=lambda wide: list_screen(found, node=node, wide=wide),
        document=lambda: make_document("risks", risks=found),
        names=lambda: [r.id for r in found],
    )
    return OK


@risk.command(
    "revoke",
    cls=Taught,
    examples=(
        "vfioctl risk revoke --node pve03 --code ACS_OVERRIDE",
        "vfioctl risk revoke risk-1a2b      by its id, which may be shortened",
    ),
    exits=_CHANGE_EXITS,
)
@click.argument("risk_id", metavar="[ID]", required=False, shell_complete=complete_risk)
@click.option("--node", default="", metavar="NODE", shell_complete=complete_node, help="The node.")
@click.option("--code", type=RiskChoice(RISK_CODES), help="The finding that was accepted.")
@output_option()
@coordinator_options
def revoke(
    risk_id: str | None,
    node: str,
    code: str | None,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """End a decision before its day. VMs that were placed on it are left alone."""
    if risk_id and (node or code):
        raise Mistake("ID, or --node and --code: give one of them")
    if not risk_id and not (node and code):
        raise Mistake("which one? Give its ID (vfioctl risk list), or --node and --code")
    with connect(endpoint, tls) as coordinator:
        found = coordinator.revoke_risk(node=node, code=code or "", risk_id=risk_id or "")
    emit(
        form,
        screen=lambda _: revoked_screen(found),
        document=lambda: make_document("risk", risk=found),
        names=lambda: [found.id],
    )
    return OK
