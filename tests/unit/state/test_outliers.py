"""PEER_OUTLIER: a node that is isolated unlike its peers, and everything that is no such claim."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.snapshots import FULL_ACS, behind, bridge, config_space, nic, virtual_function
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import agent, cards, snapshot
from vfio_agent.collect.host import collect_host
from vfio_agent.collect.root import open_root
from vfio_contract.model import NO_GROUP, Acs, PciFunction
from vfio_coordinator.state import report
from vfio_coordinator.state.cohorts import CARDS, COHORT
from vfio_coordinator.state.isolation import ASPECTS
from vfio_coordinator.state.model import Limits
from vfio_coordinator.state.outliers import find_outlier, find_outliers

HOSTS = Path(__file__).parents[2] / "data" / "hosts"

ALIKE = cards(2)
MERGED = tuple(replace(f, group=1) if f.group == 2 else f for f in ALIKE)


def fleet(*hosts: tuple[PciFunction, ...]) -> Cluster:
    cluster = Cluster()
    cluster.join(*(agent(f"pve{n:02}", *host) for n, host in enumerate(hosts, 1)))
    return cluster


def changed(address: str, **changes: Any) -> tuple[PciFunction, ...]:
    """The two cards with one function otherwise."""
    assert any(f.address == address for f in ALIKE)
    return tuple(replace(f, **changes) if f.address == address else f for f in ALIKE)


def outlier_lines(cluster: Cluster, node: str) -> list[str]:
    return [r.text for r in cluster.view(node).reasons if r.code == "PEER_OUTLIER"]


def test_one_node_in_four_differs() -> None:
    cluster = fleet(ALIKE, ALIKE, ALIKE, MERGED)
    (found,) = find_outliers(cluster.state)
    assert (found.node, found.aspects, found.peers, found.like) == (
        "pve04",
        ("groups",),
        3,
        "pve01",
    )
    assert find_outlier(cluster.state, "pve04") == found
    assert find_outlier(cluster.state, "pve01") is None
    items = report.status(cluster.state, cluster.now).items
    (item,) = [i for i in items if i.code == "PEER_OUTLIER"]
    assert (item.level, item.scope) == ("WARN", "1 node")
    assert item.text == "pve04: groups not as on 3 peers such as pve01"
    assert item.next == "vfioctl node show pve04"


def test_node_show_says_what_differs() -> None:
    assert outlier_lines(fleet(ALIKE, ALIKE, ALIKE, MERGED), "pve04") == [
        "groups differ from 3 peers (pve01): 0000:01:00.0 with 0000:02:00.0, there alone; "
        "0000:02:00.0 with 0000:01:00.0, there alone"
    ]
    assert outlier_lines(fleet(ALIKE, ALIKE, ALIKE, MERGED), "pve01") == []


@pytest.mark.parametrize(
    ("host", "words"),
    [
        (
            changed("0000:01:00.0", group=NO_GROUP),
            "groups differ from 3 peers (pve01): 0000:01:00.0 in no group, there alone",
        ),
        (
            changed("0000:01:00.0", reset_methods=("bus",), config=config_space(flr=False)),
            "resets differ from 3 peers (pve01): 0000:01:00.0 reset slot, there reset function",
        ),
        (
            changed(
                "0000:00:02.0",
                config=config_space(header_type=1, port_type=4, acs=Acs(0x1F, 0x01)),
            ),
            "ACS differ from 3 peers (pve01): 0000:02:00.0 ACS none 0x01, there ACS none 0x1d",
        ),
    ],
)
def test_each_aspect_in_words(host: tuple[PciFunction, ...], words: str) -> None:
    assert outlier_lines(fleet(ALIKE, ALIKE, ALIKE, host), "pve04") == [words]


@pytest.mark.parametrize(
    "hosts",
    [
        (MERGED,),
        (ALIKE, MERGED),
        (ALIKE, ALIKE, MERGED),
        (ALIKE, ALIKE, MERGED, MERGED),
        (ALIKE, ALIKE, ALIKE, ALIKE, MERGED, MERGED),
    ],
)
def test_few_nodes_or_an_even_split_claim_nothing(
    hosts: tuple[tuple[PciFunction, ...], ...],
) -> None:
    cluster = fleet(*hosts)
    assert find_outliers(cluster.state) == ()
    assert find_outlier(cluster.state, f"pve{len(hosts):02}") is None


def test_another_bios_kernel_or_set_of_cards_is_another_cohort() -> None:
    three = [agent(f"pve0{n}") for n in (1, 2, 3)]
    newer = agent("pve04", *MERGED, bios="F11")
    kernel = agent("pve05", *MERGED)
    facts = kernel.snapshot.facts
    facts = replace(facts, kernel=replace(facts.kernel, release="6.14.0"))
    kernel.snapshot = replace(kernel.snapshot, facts=facts)
    fuller = agent("pve06", *MERGED, nic("0000:07:00.0", group=1))
    cluster = Cluster()
    cluster.join(*three, newer, kernel, fuller)
    assert find_outliers(cluster.state) == ()
    cluster.change(newer, snapshot(*MERGED))
    assert [o.node for o in find_outliers(cluster.state)] == ["pve04"]


def test_use_makes_no_outlier() -> None:
    """A card with VFs in one node, on another driver, in other groups and on other buses."""
    port = bridge("0000:00:01.0", group=101)
    owner = nic("0000:0a:00.0", group=55, driver="igb", sriov_num_vfs=2, sriov_total_vfs=7)
    other = bridge("0000:00:02.0", group=102)
    used = (
        *behind(port, owner),
        virtual_function(owner, "0000:0a:10.0", 0, group=56),
        virtual_function(owner, "0000:0a:10.1", 1, group=55),
        *behind(other, nic("0000:0b:00.0", group=57)),
    )
    cluster = fleet(ALIKE, ALIKE, ALIKE, used)
    assert find_outliers(cluster.state) == ()
    first, last = (cluster.state.cohorts.traits_of(name) for name in ("pve01", "pve04"))
    assert first is not None
    assert last is not None
    assert [last.value(part) for part in (COHORT, *ASPECTS)] == [
        first.value(part) for part in (COHORT, *ASPECTS)
    ]


def test_what_could_not_be_read_is_no_difference() -> None:
    hosts = (
        changed("0000:01:00.0", group=None),
        changed("0000:01:00.0", config=None),
        changed("0000:00:01.0", config=config_space(header_type=1, port_type=4, extended=None)),
    )
    for host in hosts:
        assert find_outliers(fleet(ALIKE, ALIKE, ALIKE, ALIKE, host).state) == ()


def test_a_card_whose_ids_could_not_be_read_is_in_no_cohort() -> None:
    cluster = fleet(*[changed("0000:01:00.0", vendor=None)] * 4)
    traits = cluster.state.cohorts.traits_of("pve01")
    assert traits is not None
    assert (traits.value(CARDS), traits.value(COHORT)) == (None, None)


def test_a_silent_node_is_no_outlier_and_is_one_again_when_it_is_back() -> None:
    cluster = Cluster()
    agents = [agent(f"pve0{n}") for n in (1, 2, 3)]
    odd = agent("pve04", *MERGED)
    cluster.join(*agents, odd)
    cluster.close(odd)
    assert find_outliers(cluster.state) == ()
    cluster.wait(Limits().reconnect_at_most_s + 1)
    cluster.join(*agents, odd)
    assert [o.node for o in find_outliers(cluster.state)] == ["pve04"]
    assert outlier_lines(cluster, "pve04")


def test_two_different_outliers_each_compare_with_the_majority() -> None:
    other = tuple(replace(f, group=NO_GROUP) if f.group == 2 else f for f in ALIKE)
    cluster = fleet(*[ALIKE] * 6, MERGED, other)
    found = find_outliers(cluster.state)
    assert [(o.node, o.peers) for o in found] == [("pve07", 6), ("pve08", 6)]
    items = report.status(cluster.state, cluster.now).items
    (item,) = [i for i in items if i.code == "PEER_OUTLIER"]
    assert (item.scope, item.next) == ("2 nodes", "vfioctl node show pve07")


def test_a_real_host_whose_firmware_isolates_otherwise() -> None:
    """F11 merges what F10 kept apart; with one version string they are one cohort."""
    before = collect_host(open_root(str(HOSTS / "gpubox-f10.tar.gz")))
    after = collect_host(open_root(str(HOSTS / "gpubox-f11.tar.gz")))
    firmware = before.facts.firmware
    other = replace(after, facts=replace(after.facts, firmware=firmware))
    cluster = Cluster()
    cluster.join(*(Agent(f"pve0{n}", before) for n in (1, 2, 3)), Agent("pve04", other))
    (found,) = find_outliers(cluster.state)
    assert (found.node, found.aspects) == ("pve04", ("groups", "ACS"))
    groups, acs = outlier_lines(cluster, "pve04")
    assert "0000:04:00.0 with" in groups
    assert "there alone" in groups
    assert "0x1d" in acs
    assert FULL_ACS.control == 0x1D
