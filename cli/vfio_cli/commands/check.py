"""`vfioctl check`: one host's verdict with its evidence, without any server."""

from __future__ import annotations

import click

from vfio_agent.inspect import SYNC_DIRECTORY, Inspection
from vfio_cli.completion import complete_node
from vfio_cli.endpoint import coordinator_options
from vfio_cli.exits import USAGE, Mistake, Stop
from vfio_cli.help import Taught
from vfio_cli.look import check_view, from_options, look, look_at_evidence
from vfio_cli.output import WITHOUT_NAME, emit, output_option, report_document, tell_stop
from vfio_cli.screens.check import CheckView, check_screen
from vfio_cli.terminal import note, repeat
from vfio_cli.tree import is_one_file


@click.command(
    "check",
    cls=Taught,
    examples=(
        "vfioctl check",
        "sudo vfioctl check -o wide          reads more, shows all evidence",
        "vfioctl check --root host.tar.gz    a captured host",
        "vfioctl check --from dmesg.txt lspci.txt    pasted output, an artifact, a tar",
        "ssh pve07 sudo dmesg | vfioctl check --from -",
        "vfioctl check --active              also measures fsync, for two seconds",
        "vfioctl check --node pve07          has that node look now",
        "vfioctl check -o json | jq .verdict",
    ),
    exits="0 ready, 1 ready with warnings, 2 not ready, 3 not known (evidence is missing), "
    "64 wrong usage (also: no such node, a PATH that is no host).",
)
@click.option("--root", metavar="PATH", help="A captured host: a directory or a tar of its root.")
@from_options
@click.option(
    "--node",
    metavar="NODE",
    hidden=is_one_file(),
    shell_complete=complete_node,
    help="Have this node of the cluster look at itself now instead; with --watch, as it is heard.",
)
@click.option(
    "--active",
    is_flag=True,
    help="Also measure fsync: at most 1 MiB and 2 s of writes, nothing is left behind.",
)
@click.option(
    "--active-dir",
    metavar="DIR",
    help=f"Where --active writes: a directory on the VMs' storage.  [default: {SYNC_DIRECTORY}]",
)
@click.option("--watch", is_flag=True, help="Look again every 2 seconds until Ctrl-C.")
@output_option(*WITHOUT_NAME)
@coordinator_options
def check(
    root: str | None,
    evidence: tuple[str, ...],
    more: tuple[str, ...],
    node: str | None,
    active: bool,
    active_dir: str | None,
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
    if active and (root is not None or node is not None or paths or watch):
        raise Mistake("--active measures this host once: not with --root, --from, --node, --watch")
    if active_dir is not None and not active:
        raise Mistake("--active-dir says where --active measures: add --active")
    if active_dir == "":
        raise Mistake("--active-dir '': it is empty: give a directory, or leave the option out")
    if paths and watch:
        raise Mistake("--watch: given evidence does not change")

    directory = (active_dir or SYNC_DIRECTORY) if active else None

    def once() -> int:
        if node is not None:
            view = _ask(node, endpoint, tls, look=not watch)
        else:
            view = check_view(_look(paths, root, directory), root)
        emit(
            form,
            screen=lambda wide: check_screen(view, wide=wide),
            document=lambda: report_document(view.report, given=view.given, kept=view.kept),
        )
        return view.report.exit_code

    return repeat(once, watch=watch, tell=tell_stop(form))


def _look(paths: tuple[str, ...], root: str | None, sync_directory: str | None) -> Inspection:
    if paths:
        return look_at_evidence(paths)
    return look(root) if sync_directory is None else look(None, sync_directory=sync_directory)


def _ask(node: str, endpoint: str | None, tls: str | None, *, look: bool) -> CheckView:
    """What the node says now; where it cannot be had look, what it said last, with a note."""
    # Here, not above: gRPC takes 150 ms to import, which a local check need not pay.
    from vfio_cli.client import connect
    from vfio_cli.remote import look_at_node
    from vfio_cli.screens.nodes import as_check

    with connect(endpoint, tls) as coordinator:
        why = ""
        if look:
            try:
                look_at_node(coordinator, node, verb="check")
            except Stop as stop:
                if stop.status == USAGE:
                    raise
                why = f"not looked at now, this is as it was last heard: {stop.message}"
        found = coordinator.show_node(node)
        if why:
            note(f"vfioctl: {why}")
        return as_check(found, note=why)
