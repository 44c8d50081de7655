"""`vfioctl check`: one host's verdict with its evidence, without any server."""

from __future__ import annotations

import click

from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import Mistake
from vfio_cli.help import Taught
from vfio_cli.look import check_view, from_options, look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, output_option, report_document
from vfio_cli.screens.check import CheckView, check_screen
from vfio_cli.terminal import repeat


@click.command(
    "check",
    cls=Taught,
    examples=(
        "vfioctl check",
        "sudo vfioctl check -o wide          reads more, shows all evidence",
        "vfioctl check --root host.tar.gz    a captured host",
        "vfioctl check --from dmesg.txt lspci.txt    pasted output, an artifact, a tar",
        "ssh pve07 sudo dmesg | vfioctl check --from -",
        "vfioctl check --node pve07          as the coordinator last heard it",
        "vfioctl check -o json | jq .verdict",
    ),
    exits="0 ready, 1 ready with warnings, 2 not ready, 3 not known (evidence is missing), "
    "64 wrong usage.",
)
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@from_options
@click.option("--node", metavar="NODE", help="Ask the coordinator about this node instead.")
@click.option("--watch", is_flag=True, help="Look again every 2 seconds until Ctrl-C.")
@output_option(*WITHOUT_NAME)
@coordinator_options
def check(
    root: str | None,
    evidence: tuple[str, ...],
    more: tuple[str, ...],
    node: str | None,
    watch: bool,
    form: str,
    endpoint: str | None,
    tls: str | None,
) -> int:
    """Is this host ready for PCI passthrough, and why (not)?

    Only the node itself and devices that are meant for passthrough move the verdict; all others
    are candidates. What could not be read is UNKNOWN, never PASS.
    """
    paths = (*evidence, *more)
    if more and not evidence:
        raise Mistake(f"{more[0]}: to judge a file's evidence: vfioctl check --from {more[0]}")
    if (root is not None) + (node is not None) + bool(paths) > 1:
        raise Mistake("--root, --from and --node: give one of them; captured evidence is no node")
    if paths and watch:
        raise Mistake("--watch: given evidence does not change")

    def once() -> int:
        if node is not None:
            view = _ask(node, endpoint, tls)
        else:
            view = check_view(look_at_evidence(paths) if paths else look(root), root)
        emit(
            form,
            screen=lambda wide: check_screen(view, wide=wide),
            document=lambda: report_document(view.report, given=view.given),
        )
        return view.report.exit_code

    return repeat(once, watch=watch)


def _ask(node: str, endpoint: str | None, tls: str | None) -> CheckView:
    # Here, not above: gRPC takes 150 ms to import, which a local check need not pay.
    from vfio_cli.client import connect
    from vfio_cli.screens.nodes import as_check

    with connect(endpoint, tls) as coordinator:
        return as_check(coordinator.show_node(node))
