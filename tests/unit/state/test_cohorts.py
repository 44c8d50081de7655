"""Which nodes have what in common, as agents come, change and fall silent."""

from __future__ import annotations

import random
from dataclasses import replace
from typing import Any

import pytest

from tests.fakes.snapshots import config_space, make_facts, nic, unread
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import agent, cards, snapshot
from vfio_contract.model import Snapshot
from vfio_coordinator.state.cohorts import (
    AGENT,
    BIOS,
    BOARD,
    CHECKS,
    COHORT,
    KERNEL,
    Cohorts,
    learn,
    name_board,
)
from vfio_coordinator.state.model import Limits

BOARD_NAME = "Supermicro X12DPi"


def joined(*agents: Agent) -> Cluster:
    cluster = Cluster()
    cluster.join(*agents)
    return cluster


def with_kernel(one: Snapshot, release: str) -> Snapshot:
    kernel = replace(one.facts.kernel, release=release)
    return replace(one, facts=replace(one.facts, kernel=kernel))


def value(cluster: Cluster, node: str, part: str) -> str | None:
    traits = cluster.state.cohorts.traits_of(node)
    assert traits is not None
    return traits.value(part)


def test_an_agent_s_evidence_says_what_it_has_in_common_with_others() -> None:
    cohorts = joined(agent("pve01"), agent("pve02"), agent("pve03", bios="F11")).state.cohorts
    assert list(cohorts.nodes_with(BIOS, "F10 01/01/2025")) == ["pve01", "pve02"]
    assert cohorts.count(BIOS, "F11 01/01/2025") == 1
    assert cohorts.count(BIOS, "F12 01/01/2025") == 0
    assert list(cohorts.nodes_with(BOARD, BOARD_NAME)) == ["pve01", "pve02", "pve03"]
    assert cohorts.count(BOARD, BOARD_NAME) == 3
    assert cohorts.count(AGENT, "0.1.0") == 3
    assert cohorts.count(CHECKS, "checks-1") == 3
    assert cohorts.count(KERNEL, "6.12.0-1-amd64") == 3


def test_a_change_moves_a_node_from_one_set_to_the_other() -> None:
    one = agent("pve01")
    cluster = joined(one, agent("pve02"))
    cluster.change(one, with_kernel(one.snapshot, "6.12.9"))
    cohorts = cluster.state.cohorts
    assert list(cohorts.nodes_with(KERNEL, "6.12.9")) == ["pve01"]
    assert list(cohorts.nodes_with(KERNEL, "6.12.0-1-amd64")) == ["pve02"]
    one.checks = "checks-2"
    cluster.observe(one)
    assert list(cluster.state.cohorts.nodes_with(CHECKS, "checks-2")) == ["pve01"]
    cluster.hello(one, agent_version="0.2.0")
    assert list(cluster.state.cohorts.nodes_with(AGENT, "0.2.0")) == ["pve01"]


def test_a_silent_node_keeps_its_traits_and_one_never_heard_has_none() -> None:
    one = agent("pve01")
    cluster = joined(one)
    cluster.close(one)
    cluster.wait(Limits().reconnect_at_most_s + 1)
    assert cluster.view("pve01").state == "lost"
    assert value(cluster, "pve01", BIOS) == "F10 01/01/2025"
    cluster.restart()
    assert cluster.state.cohorts.traits_of("pve01") is None
    assert cluster.state.cohorts.board_of("pve01") == ""


def test_what_could_not_be_read_is_in_no_set() -> None:
    one = agent("pve01")
    facts = one.snapshot.facts
    blind = replace(
        one.snapshot, facts=replace(facts, firmware=unread(facts.firmware, "bios_date"))
    )
    cluster = joined(one, Agent("pve02", blind))
    assert value(cluster, "pve02", BIOS) is None
    assert value(cluster, "pve02", COHORT) is None
    assert cluster.state.cohorts.count(BIOS, "F10 01/01/2025") == 1
    cluster.change(one, blind)
    assert cluster.state.cohorts.count(BIOS, "F10 01/01/2025") == 0
    assert value(cluster, "pve01", BIOS) is None


def test_a_refused_newcomer_changes_nothing() -> None:
    one = agent("pve01")
    cluster = joined(one)
    cluster.hello(Agent("pve01", snapshot(*cards(2), boot=1), uuid="other"), agent_version="9")
    assert value(cluster, "pve01", AGENT) == "0.1.0"


@pytest.mark.parametrize(
    ("changes", "board"),
    [
        ({}, BOARD_NAME),
        ({"board_name": ""}, "Supermicro X12"),
        ({"board_name": "To Be Filled By O.E.M."}, "Supermicro X12"),
        ({"board_name": "Default string", "product_name": "System Product Name"}, None),
        ({"system_vendor": None}, None),
    ],
)
def test_a_board_is_named_by_its_maker_or_not_at_all(
    changes: dict[str, Any], board: str | None
) -> None:
    assert name_board(replace(make_facts().firmware, **changes)) == board


def test_cards_are_the_same_whatever_their_serials_buses_groups_and_drivers() -> None:
    """Two machines from one carton, the second in use: other serials, drivers and VFs."""
    plain = cards(2)
    used = tuple(
        replace(
            f,
            group=None if f.group is None else f.group + 40,
            driver="vfio-pci" if not f.is_bridge else f.driver,
            config=config_space(flr=True, serial_number=f"00-00-00-00-00-00-00-{n:02x}")
            if not f.is_bridge
            else f.config,
        )
        for n, f in enumerate(plain, 1)
    )
    cluster = joined(agent("pve01", *plain), agent("pve02", *used))
    for part in (COHORT, "groups", "resets", "ACS"):
        assert value(cluster, "pve01", part) == value(cluster, "pve02", part) is not None
    cluster.join(agent("pve03", *plain, nic("0000:09:00.0", group=9)))
    assert value(cluster, "pve03", COHORT) != value(cluster, "pve01", COHORT)


def test_any_order_of_changes_ends_in_the_same_sets() -> None:
    dice = random.Random(20261123)
    told = [
        (f"n{dice.randrange(6)}", {part: dice.choice(["a", "b", None])})
        for _ in range(400)
        for part in [dice.choice([BIOS, COHORT, "groups", "ACS"])]
    ]
    last: dict[str, dict[str, str | None]] = {}
    grown = Cohorts()
    for node, parts in told:
        grown = learn(grown, node, parts)
        last.setdefault(node, {}).update(parts)
    fresh = Cohorts()
    for node in reversed(sorted(last)):
        fresh = learn(fresh, node, last[node])
    for known, wanted in ((grown.names, fresh.names), (grown.traits, fresh.traits)):
        assert {k: repr(sorted_(v)) for k, v in known.items()} == {
            k: repr(sorted_(v)) for k, v in wanted.items()
        }
    assert {k: sorted(v) for k, v in grown.alike.items()} == {
        k: sorted(v) for k, v in fresh.alike.items()
    }
    assert grown.uneven == fresh.uneven
    assert grown.uneven == {key for key, inner in fresh.alike.items() if len(inner) > 1}


def sorted_(value: Any) -> list[Any]:
    return sorted(value.parts.items() if hasattr(value, "parts") else value)


def test_learning_the_same_again_is_the_very_same_value() -> None:
    cohorts = learn(Cohorts(), "pve01", {BIOS: "F10", KERNEL: None})
    assert learn(cohorts, "pve01", {BIOS: "F10", KERNEL: None}) is cohorts
