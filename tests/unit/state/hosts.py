"""Small hosts for the reducer's tests, and what happens to them: accepted, rebooted."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.fakes.snapshots import audio, behind, bridge, gpu, make_snapshot, nic
from tests.unit.state.cluster import Agent, Cluster
from vfio_contract.model import PciFunction, Snapshot
from vfio_contract.views import BaselineView, NodeView

BOOTS = tuple(f"{n}0000000-0000-4000-8000-000000000000" for n in range(1, 9))


def cards(count: int, *, first_bus: int = 1, numa: int = -1) -> tuple[PciFunction, ...]:
    """So many cards, each alone in its group below a root port of its own."""
    rows: list[PciFunction] = []
    for number in range(count):
        bus = first_bus + number
        port = bridge(f"0000:00:{bus:02x}.0", group=100 + bus)
        rows += behind(port, nic(f"0000:{bus:02x}:00.0", group=bus, numa_node=numa))
    return tuple(rows)


def graphics(bus: int, *, group: int, numa: int = -1, **changes: Any) -> tuple[PciFunction, ...]:
    """A graphics card with its audio function below a root port of its own."""
    port = bridge(f"0000:00:{bus:02x}.0", group=100 + bus)
    return behind(
        port,
        gpu(f"0000:{bus:02x}:00.0", group=group, numa_node=numa, **changes),
        audio(f"0000:{bus:02x}:00.1", group=group, numa_node=numa, **changes),
    )


def snapshot(*functions: PciFunction, boot: int = 0, bios: str = "F10", **changes: Any) -> Snapshot:
    made = make_snapshot(*functions, boot_id=BOOTS[boot], **changes)
    firmware = replace(made.facts.firmware, bios_version=bios)
    return replace(made, facts=replace(made.facts, firmware=firmware))


def agent(name: str, *functions: PciFunction, **changes: Any) -> Agent:
    """An agent whose host has these functions, or two cards."""
    return Agent(name, snapshot(*(functions or cards(2)), **changes))


def accepted(*functions: PciFunction) -> tuple[Cluster, Agent]:
    cluster = Cluster()
    one = agent("pve01", *functions)
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    return cluster, one


def reboot(cluster: Cluster, one: Agent, *functions: PciFunction, bios: str = "F10") -> NodeView:
    boot = int(one.boot_id[0])
    one.snapshot = snapshot(*functions, boot=boot, bios=bios)
    cluster.join(one)
    return cluster.view("pve01")


def owners(view: NodeView) -> list[str]:
    return [r.owner for r in view.reasons if r.owner.startswith("auto:")]
