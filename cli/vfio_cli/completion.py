"""Names of nodes and VMs for the shell's completion, asked of the coordinator.

A completion that cannot be had is no completion: nothing is printed and nothing fails.
"""

from __future__ import annotations

import click
from click.shell_completion import CompletionItem

from vfio_cli.client import connect


def complete_node(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Nodes that begin with what was typed."""
    try:
        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            names = [(n.name, n.state) for n in coordinator.list_nodes()]
    except click.ClickException:
        return []
    return [CompletionItem(n, help=state) for n, state in names if n.startswith(incomplete)]


def complete_vm(
    context: click.Context, _parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """VMs with a claim that begin with what was typed."""
    try:
        with connect(context.params.get("endpoint"), context.params.get("tls")) as coordinator:
            names = [(vm.name, vm.node) for vm in coordinator.list_vms()]
    except click.ClickException:
        return []
    return [CompletionItem(n, help=node) for n, node in names if n.startswith(incomplete)]
