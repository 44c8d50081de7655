"""Names of nodes, VMs and risk decisions for the shell's completion, asked of the coordinator.

A completion that cannot be had is no completion: nothing is printed and nothing fails. The client
is imported when it is asked, so that a command with completions can be called without gRPC.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem


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
