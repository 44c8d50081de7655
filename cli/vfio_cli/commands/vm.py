"""`vfioctl vm ...`: places for VMs that need devices, and whether their files are right.

`lint` looks at this host alone: it must never need what the others need to ask the coordinator.
"""

from __future__ import annotations

import click

from vfio_cli.tree import LazyGroup, Rows

COMMANDS: Rows = {
    "lint": ("lint:lint", "Are this host's VM configurations right for its devices?"),
    "place": ("claims:place", "Decide where a VM goes and reserve its devices there."),
    "claim": ("claims:claim", "Reserve devices for another orchestrator."),
    "release": ("claims:release", "Give a VM's devices back."),
    "list": ("claims:list_", "List the VMs that hold devices, those at risk first."),
    "explain": ("claims:explain", "Why a VM is where it is, or why nothing fits it."),
}


@click.group("vm", cls=LazyGroup, sections={"Commands": COMMANDS}, no_args_is_help=True)
def vm() -> None:
    """Places for VMs that need devices, why there is none, and what is wrong with their files."""
