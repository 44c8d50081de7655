"""What the baseline knows and the evidence now does not tell: neither equal to it, nor harm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import behind, bridge, config_space, gpu, nic, unread
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import agent, cards, snapshot
from tests.unit.state.test_acceptance import accepted_by, automatic
from tests.unit.state.test_drift import moved
from vfio_contract.baseline_views import BaselineRefusal
from vfio_contract.model import PciFunction
from vfio_contract.views import BaselineView, NodeView
from vfio_coordinator.state.baseline_report import baseline_view

PORT = "0000:00:01.0"


def changed(address: str, *names: str, **values: object) -> tuple[PciFunction, ...]:
    """Two cards below their ports, of one function these fields not known, or these values."""
    return tuple(
        replace(unread(f, *names), **values) if f.address == address else f  # type: ignore[arg-type]
        for f in cards(2)
    )


def booted(cluster: Cluster, one: Agent, *functions: PciFunction) -> NodeView:
    one.snapshot = snapshot(*functions, boot=1, bios="F11")
    cluster.join(one)
    cluster.observe(one)
    return cluster.view("pve01")


def known(*functions: PciFunction) -> tuple[Cluster, Agent]:
    cluster, one = Cluster(), agent("pve01", *functions)
    cluster.join(one)
    cluster.accept(BaselineView, "pve01")
    return cluster, one


@pytest.mark.parametrize(
    ("functions", "said"),
    [
        (changed(PORT, "config"), f"ACS bits of {PORT}"),
        (changed("0000:01:00.0", "group"), "group of 0000:01:00.0"),
        (changed("0000:01:00.0", "driver", "vfio_device"), "driver of 0000:01:00.0"),
        (changed("0000:01:00.0", "parent", "physfn"), "reset methods of 0000:01:00.0"),
    ],
)
def test_what_may_hide_harm_to_an_intended_unit_holds_the_node(
    functions: tuple[PciFunction, ...], said: str
) -> None:
    cluster, one = known(*cards(2))
    view = booted(cluster, one, *functions)
    assert view.state == "revalidating"
    (reason,) = [r for r in view.reasons if "cannot be compared" in r.text]
    assert said in reason.text
    assert "waits for: evidence (vfioctl check --node pve01)" in reason.text
    node = cluster.state.nodes["pve01"]
    assert node.admin is not None
    assert node.admin.boot_id != one.boot_id
    cluster.restart()
    assert booted(cluster, one, *functions).state == "revalidating"
    assert booted(cluster, one, *cards(2)).state == "ready"


def test_it_is_broken_for_who_accepts_and_then_known_no_more() -> None:
    cluster, one = known(*cards(2))
    booted(cluster, one, *changed(PORT, "config"))
    refused = cluster.accept(BaselineRefusal, "pve01")
    assert [p.subject for p in refused.problems] == [f"ACS bits of {PORT}"]
    view = baseline_view(cluster.state, "pve01")
    assert (view.compared, view.unread) == (True, (f"ACS bits of {PORT}",))
    view = cluster.accept(BaselineView, "pve01", force=True, reason="this firmware hides it")
    assert view.unread == ()
    assert cluster.view("pve01").state == "ready"


def test_what_neither_side_knows_holds_nobody() -> None:
    cluster, one = known(*changed(PORT, "config"))
    view = booted(cluster, one, *changed(PORT, "config"))
    assert view.state == "ready"


def test_a_device_that_nobody_wants_holds_nobody() -> None:
    port = bridge("0000:00:09.0", group=90)
    other = behind(port, nic("0000:09:00.0", group=91, device=0x10D3, driver="igb"))
    cluster, one = known(*cards(2), *other)
    blind = tuple(unread(f, "config") if f.address.startswith("0000:09") else f for f in other)
    assert booted(cluster, one, *cards(2), *blind).state == "ready"


def test_an_acs_capability_that_was_read_to_be_gone_was_not_left_unread() -> None:
    cluster, one = known(*cards(2))
    config = config_space(header_type=1)
    assert config.acs is None
    view = booted(cluster, one, *changed(PORT, config=config))
    assert view.state == "ready"


def test_harm_that_shows_once_it_can_be_read_cordons() -> None:
    cluster, one = known(*cards(2))
    booted(cluster, one, *changed(PORT, "config"))
    (port,) = (f for f in cards(2) if f.address == PORT)
    assert port.config is not None
    assert port.config.acs is not None
    off = replace(port.config, acs=replace(port.config.acs, control=0))
    view = booted(cluster, one, *changed(PORT, config=off))
    assert view.state == "cordoned"


# --- the policy ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["config", "bars", "max_link_speed"])
def test_the_policy_accepts_no_evidence_that_tells_less_of_any_device(name: str) -> None:
    port = bridge("0000:00:09.0", group=90)
    other = behind(
        port, nic("0000:09:00.0", group=91, device=0x10D3, driver="igb", max_link_width=4)
    )
    cluster, one = automatic(*cards(2), *other)
    blind = tuple(unread(f, name) for f in other)
    assert booted(cluster, one, *cards(2), *blind).state == "ready"
    assert len(accepted_by(cluster)) == 1, "what was known is not given away"
    booted(cluster, one, *cards(2), *other)
    assert len(accepted_by(cluster)) == 2


def test_nor_one_that_tells_less_of_the_firmware() -> None:
    cluster, one = automatic(*cards(2))
    one.snapshot = snapshot(*moved(*cards(2), by=3), boot=1)
    release = replace(one.snapshot.facts.kernel, release=None, build=None)
    whole, less = one.snapshot, replace(one.snapshot.facts, kernel=release)
    one.snapshot = replace(whole, facts=less)
    cluster.join(one)
    cluster.observe(one)
    assert cluster.view("pve01").state == "ready"
    assert len(accepted_by(cluster)) == 1
    cluster.change(one, whole)
    assert len(accepted_by(cluster)) == 2


# --- groups --------------------------------------------------------------------------------------


def twins(first: int, *, group: int) -> tuple[PciFunction, ...]:
    """A graphics card, and two network cards of unknown places from that bus on: the second one's
    group is given."""
    rows = behind(bridge("0000:00:01.0", group=101), gpu("0000:01:00.0", group=1))
    for bus, number in ((first, 20), (first + 1, group)):
        port = bridge(f"0000:00:{bus:02x}.0", group=100 + bus)
        rows += tuple(
            replace(f, root_path=None)
            for f in behind(port, nic(f"0000:{bus:02x}:00.0", group=number, driver="igb"))
        )
    return rows


def test_a_group_that_gained_a_member_of_unknown_origin_may_be_wider() -> None:
    cluster, one = known(*twins(2, group=21))
    view = booted(cluster, one, *twins(5, group=1))
    assert view.state == "revalidating"
    (reason,) = [r for r in view.reasons if "cannot be compared" in r.text]
    assert "all members of its group of 0000:01:00.0" in reason.text
    identities = {key.partition(" ")[2] for key in cluster.state.nodes["pve01"].undecided}
    assert any(identity.startswith("10de:2231") for identity in identities)
