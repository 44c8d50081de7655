"""Fleets by board, BIOS and kernel, for what rests on which versions were seen where."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.unit.state.cluster import Agent, Cluster, ask_for
from tests.unit.state.hosts import cards, snapshot
from vfio_contract.forecast_views import ForecastView
from vfio_contract.model import PciFunction, Snapshot
from vfio_contract.views import BaselineView, Decision
from vfio_coordinator.state.forecast import Question, forecast

GOOD = cards(2)
MERGED = tuple(replace(f, group=1) if f.group == 2 else f for f in GOOD)
"""The same cards, of which one upgrade made one group."""


def host(
    *functions: PciFunction,
    bios: str = "F10",
    kernel: str = "6.12.0-1-amd64",
    board: str = "X12DPi",
    boot: int = 0,
) -> Snapshot:
    """A host with these functions, or two cards, with these versions."""
    made = snapshot(*(functions or GOOD), boot=boot, bios=bios)
    facts = made.facts
    facts = replace(
        facts,
        firmware=replace(facts.firmware, board_name=board),
        kernel=replace(facts.kernel, release=kernel),
    )
    return replace(made, facts=facts)


def fleet(**hosts: Snapshot) -> tuple[Cluster, dict[str, Agent]]:
    """A cluster of these hosts by name, nothing accepted yet."""
    cluster = Cluster()
    agents = {name: Agent(name, made) for name, made in hosts.items()}
    cluster.join(*agents.values())
    return cluster, agents


def accept(cluster: Cluster, *names: str) -> None:
    for name in names:
        cluster.accept(BaselineView, name)


def boot(cluster: Cluster, one: Agent, made: Snapshot) -> None:
    """The node comes back as this host."""
    one.snapshot = made
    cluster.join(one)


def widened(cluster: Cluster, one: Agent, *, bios: str = "F11") -> None:
    """Accepted as it is; after the upgrade its two cards are one group."""
    accept(cluster, one.name)
    boot(cluster, one, host(*MERGED, bios=bios, boot=int(one.boot_id[0])))
    assert cluster.view(one.name).state == "cordoned"


def place(cluster: Cluster, vm: str, on: str, *devices: str, **changes: Any) -> None:
    """A VM that could run anywhere and was put on this node: no other was ready then."""
    names = [name for name in cluster.state.nodes if name != on]
    others = [name for name in names if cluster.view(name).state == "ready"]
    for name in others:
        cluster.cordon(object, name)
    decision = cluster.place(Decision, ask_for(vm, *devices, **changes))
    assert decision.placement is not None
    assert decision.placement.node == on
    for name in others:
        cluster.uncordon(object, name)


def ask(cluster: Cluster, *nodes: str, bios: str = "", kernel: str = "") -> ForecastView:
    """The answer; asking twice changes neither it nor the state."""
    before = cluster.state
    question = Question(bios, kernel, nodes)
    found = forecast(cluster.state, question, cluster.now)
    assert forecast(cluster.state, question, cluster.now) == found
    assert cluster.state is before
    return found
