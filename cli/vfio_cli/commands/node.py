"""`vfioctl node ...`: the hosts of the cluster."""

from __future__ import annotations

from collections.abc import Sequence

import click

from vfio_cli.client import connect
from vfio_cli.commands.revalidate import revalidate
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.help import Taught
from vfio_cli.output import WITHOUT_NAME, emit, make_document, output_option
from vfio_cli.screens.layout import Line
from vfio_cli.screens.nodes import heard_verdict, list_screen, list_table, show_screen, state_word
from vfio_cli.watching import Picture, watch_cluster
from vfio_contract.findings import EXIT_CODES
from vfio_contract.views import NodeView, WatchKind


@click.group("node", no_args_is_help=True)
def node() -> None:
    """The hosts of the cluster. A name may be shortened to what fits one node only."""


node.add_command(revalidate)

node_argument = click.argument("name", metavar="NODE", shell_complete=complete_node)

_CHANGE_EXITS = (
    "0 done, 2 not allowed, 3 the coordinator cannot be reached, 64 no such node or wrong usage."
)


@node.command(
    "list",
    cls=Taught,
    examples=("vfioctl node list", "vfioctl node list -o wide --watch"),
    exits="0 listed, 3 the coordinator cannot be reached, 64 wrong usage.",
)
@click.option("--watch", is_flag=True, help="Go on and show what changes, until Ctrl-C.")
@output_option()
@coordinator_options
def list_(watch: bool, form: str, endpoint: str | None, tls: str | None) -> int:
    """List all nodes, worst first."""

    if watch:
        return watch_cluster(
            form,
            kinds=(WatchKind.NODES,),
            endpoint=endpoint,
            tls=tls,
            draw=lambda live, now_s: _picture(live.nodes(now_s=now_s)),
        )
    with connect(endpoint, tls) as coordinator:
        shown = _picture(coordinator.list_nodes())
    emit(form, screen=shown.screen, document=shown.document, names=shown.names)
    return 0


def _picture(nodes: Sequence[NodeView]) -> Picture:
    return Picture(
        screen=lambda wide: list_screen(nodes, wide=wide),
        document=lambda: make_document("nodes", nodes=nodes),
        names=lambda: [n.name for n in nodes],
    )


@node.command(
    "show",
    cls=Taught,
    examples=("vfioctl node show pve07", "vfioctl node show pve07 -o json"),
    exits="the node's verdict: 0 pass, 1 warning, 2 fail, 3 not known or the coordinator cannot "
    "be reached; 64 no such node or wrong usage.",
)
@node_argument
@output_option(*WITHOUT_NAME)
@coordinator_options
def show(name: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Show one node: why it is as it is, units, drift, findings."""
    with connect(endpoint, tls) as coordinator:
        found = coordinator.show_node(name)
    emit(
        form,
        screen=lambda wide: show_screen(found, wide=wide),
        document=lambda: make_document("node", node=found),
    )
    return EXIT_CODES[heard_verdict(found)]


@node.command(
    "cordon",
    cls=Taught,
    examples=('vfioctl node cordon pve07 --reason "new BIOS tonight"',),
    exits=_CHANGE_EXITS,
)
@node_argument
@click.option("--reason", default="", metavar="TEXT", help="Why, for whoever comes next.")
@output_option()
@coordinator_options
def cordon(name: str, reason: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Keep new VMs off a node; those there are left alone."""
    with connect(endpoint, tls) as coordinator:
        _changed(coordinator.cordon(name, reason=reason), "CORDONED", form)
    return 0


@node.command(
    "uncordon",
    cls=Taught,
    examples=("vfioctl node uncordon pve07",),
    exits=_CHANGE_EXITS,
)
@node_argument
@output_option()
@coordinator_options
def uncordon(name: str, form: str, endpoint: str | None, tls: str | None) -> int:
    """Lift every cordon of a node, automatic ones too.

    Its gates still apply: a device that does not qualify is still not given away.
    """
    with connect(endpoint, tls) as coordinator:
        _changed(coordinator.uncordon(name), "UNCORDONED", form)
    return 0


def _changed(found: NodeView, word: str, form: str) -> None:
    head = Line(f"{word}  {found.name}: {state_word(found)} now", "good", 0, len(word))
    emit(
        form,
        screen=lambda wide: [head, Line(""), *list_table([found], wide=wide)],
        document=lambda: make_document("node", node=found),
        names=lambda: [found.name],
    )
