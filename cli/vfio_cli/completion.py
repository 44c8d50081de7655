"""Names of nodes, VMs, risks, incidents, health codes and functions for the shell's completion.

A completion that cannot be had is no completion: nothing is printed and nothing fails. The client
is imported when it is asked, so that a command with completions can be called without gRPC.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

if TYPE_CHECKING:
    from vfio_contract.views import NodeView


def complete_node(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Nodes that begin with what was typed."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            names = [(n.name, n.state) for n in coordinator.list_nodes()]
    except (click.ClickException, ModuleNotFoundError):
        return []
    return [CompletionItem(n, help=state) for n, state in names if n.startswith(incomplete)]


def complete_bios(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """BIOS versions that some node runs."""
    return _complete_version(context, incomplete, lambda node: node.firmware)


def complete_kernel(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Kernels that some node runs."""
    return _complete_version(context, incomplete, lambda node: node.kernel)


def _complete_version(
    context: click.Context, incomplete: str, version_of: Callable[[NodeView], str]
) -> list[CompletionItem]:
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            counts = Counter(version_of(node) for node in coordinator.list_nodes())
    except (click.ClickException, ModuleNotFoundError):
        return []
    found = sorted((v, n) for v, n in counts.items() if v and v.startswith(incomplete))
    return [CompletionItem(v, help=f"{n} node{'s' if n > 1 else ''}") for v, n in found]


def complete_address(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Functions of this host, or of `--root`, whose address begins with what was typed.

    Without its domain too, as it may be given.
    """
    from vfio_agent.inspect import open_host

    try:
        names = sorted(open_host(context.params.get("root") or "/").list("/sys/bus/pci/devices"))
    except (OSError, ValueError):
        return []
    short = [name.partition(":")[2] for name in names]
    found = [n for n in names if n.startswith(incomplete)]
    return [CompletionItem(n) for n in found or (n for n in short if n.startswith(incomplete))]


def complete_place(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """`[NODE] ADDRESS`: functions of this host, and nodes of the cluster."""
    return [
        *complete_address(context, parameter, incomplete),
        *complete_node(context, parameter, incomplete),
    ]


def complete_risk(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Risk decisions in force that begin with what was typed."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            rows = [r for r in coordinator.list_risks("") if r.state == "accepted"]
    except (click.ClickException, ModuleNotFoundError):
        return []
    names = [(risk.id, f"{risk.node} {risk.code}") for risk in rows]
    return [CompletionItem(n, help=about) for n, about in names if n.startswith(incomplete)]


def complete_health_code(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Health codes that somebody may not want to hear of: those that are shown and not muted."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            rows = [item for item in coordinator.status().items if not item.muted]
    except (click.ClickException, ModuleNotFoundError):
        return []
    names = {item.code: f"{item.level} {item.scope}" for item in rows}
    return [CompletionItem(n, help=about) for n, about in names.items() if n.startswith(incomplete)]


def complete_muted_code(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Health codes that are muted."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            names = {mute.code: mute.node or "all nodes" for mute in coordinator.list_mutes()}
    except (click.ClickException, ModuleNotFoundError):
        return []
    return [CompletionItem(n, help=about) for n, about in names.items() if n.startswith(incomplete)]


def complete_incident(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Open incidents whose id begins with what was typed."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            rows, _, _ = coordinator.list_incidents(closed=False, limit=0)
    except (click.ClickException, ModuleNotFoundError):
        return []
    typed = incomplete.upper()
    names = [(view.id, f"{view.code}, {view.nodes} nodes") for view in rows]
    return [
        CompletionItem(n, help=about)
        for n, about in names
        if n.startswith(typed) or n.removeprefix("INC-").startswith(typed)
    ]


def complete_vm(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """VMs with a claim that begin with what was typed."""
    try:
        from vfio_cli.client import connect

        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            names = [(vm.name, vm.node) for vm in coordinator.list_vms()]
    except (click.ClickException, ModuleNotFoundError):
        return []
    return [CompletionItem(n, help=node) for n, node in names if n.startswith(incomplete)]
