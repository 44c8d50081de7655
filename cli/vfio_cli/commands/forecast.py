"""`vfioctl forecast`: what would happen to nodes with a BIOS or kernel, by what the cluster knows.

It asks the coordinator, changes nothing and reserves nothing. What was never seen is unknown.
"""

from __future__ import annotations

import click

from vfio_cli.client import connect
from vfio_cli.completion import complete_bios, complete_kernel, complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import FAILURE, OK, UNKNOWN, WARNING, Mistake
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.forecast import forecast_screen
from vfio_contract.forecast_views import BAD, GOOD, THERE, ForecastView


@click.command(
    "forecast",
    cls=Taught,
    examples=(
        "vfioctl forecast --bios F11",
        "vfioctl forecast --kernel 6.14.2 --nodes pve01,pve02",
        "vfioctl forecast --bios F11 --kernel 6.14.2 --nodes board=X12DPi",
        "vfioctl forecast --bios F11 --nodes state=ready -o wide",
    ),
    exits="0 known good on every node, or there and passing; 1 unknown, mixed, there and not "
    "passing, or bad without a VM that loses its home; 2 known bad and some VM fits nowhere else; "
    "3 no node was heard or the coordinator cannot be reached; 64 no such node, an ambiguous "
    "version or wrong usage.",
)
@click.option(
    "--bios",
    default="",
    metavar="VERSION",
    shell_complete=complete_bios,
    help="A BIOS as `node list -o wide` shows it; its first word is enough. It says something only "
    "of its own board.",
)
@click.option(
    "--kernel",
    default="",
    metavar="RELEASE",
    shell_complete=complete_kernel,
    help="A kernel release as uname -r shows it, or its beginning up to a dot or dash.",
)
@click.option(
    "--nodes",
    multiple=True,
    metavar="SEL",
    shell_complete=complete_node,
    help="Names or beginnings of names, which add up; board=WORDS and state=STATE, which narrow. "
    "With commas or several times. All nodes without it.",
)
@output_option(*WITHOUT_NAME)
@coordinator_options
def forecast(
    bios: str,
    kernel: str,
    nodes: tuple[str, ...],
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """What would happen with a BIOS or kernel: what is known, and which VMs would need a home.

    Known is what nodes of the same board showed with it: those whose devices all passed, and those
    that failed. VMs on nodes that are not known good are placed again, dry: nothing is reserved.
    """
    if not bios.strip() and not kernel.strip():
        raise Mistake("which version? Give --bios, --kernel, or both (vfioctl node list -o wide)")
    with connect(endpoint, tls) as coordinator:
        found = coordinator.forecast(bios=bios, kernel=kernel, nodes=nodes)
    emit(
        form,
        screen=lambda wide: forecast_screen(found, wide=wide),
        document=lambda: make_document("forecast", forecast=found),
    )
    return _exit_code(found)


def _exit_code(found: ForecastView) -> int:
    if not found.heard:
        return UNKNOWN
    if any(move.outcome == BAD and not move.to for move in found.moves):
        return FAILURE
    passed = {name for board in found.boards for name in board.passed}
    sure = all(
        row.outcome == GOOD or (row.outcome == THERE and row.node in passed) for row in found.nodes
    )
    return OK if sure else WARNING
