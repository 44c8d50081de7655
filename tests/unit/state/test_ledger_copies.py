"""What the cluster's copy of a reset history becomes when another journal tells of it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.fakes.snapshots import behind, bridge, config_space, nic
from tests.unit.state.cluster import Agent, Cluster
from tests.unit.state.hosts import snapshot
from tests.unit.state.test_acceptance import accepted_by
from vfio_contract.host import Host
from vfio_contract.ledger import VM_CYCLE
from vfio_contract.model import PciFunction, ResetEvent, ResetSummary, Snapshot
from vfio_contract.policy import PolicyView
from vfio_coordinator.state.reset_history import state_of

CYCLE = ResetEvent(VM_CYCLE, "success", None, None, this_boot=True)
EARLIER = replace(CYCLE, this_boot=False)

Told = tuple[str, int, int]
"""State, attempts and failures."""


def host(told: Told, *, boot: int = 0, bios: str = "F10", recent: ResetEvent = CYCLE) -> Snapshot:
    """One card with this history."""
    seen = snapshot(*card(), boot=boot, bios=bios)
    state, attempts, failures = told
    summary = ResetSummary(name_of(seen), state, attempts, failures, "", "a line", (recent,))
    return replace(seen, readings=replace(seen.readings, ledger=(summary,)))


def card(serial: str = "") -> tuple[PciFunction, ...]:
    config = config_space(flr=True, serial_number=serial or None)
    return behind(bridge("0000:00:01.0", group=101), nic("0000:01:00.0", group=1, config=config))


def name_of(seen: Snapshot) -> str:
    hosted = Host(seen)
    return next(hosted.identities[f.address].identity for f in hosted.functions if not f.is_bridge)


def join(cluster: Cluster, one: Agent, seen: Snapshot, *, journal: str = "state-pve01") -> None:
    one.snapshot = seen
    cluster.hello(one, agent_state_id=journal)
    cluster.inventory(one)
    cluster.observe(one)


def state_now(cluster: Cluster, one: Agent) -> str:
    return str(state_of(cluster.state.nodes["pve01"], name_of(one.snapshot)))


@pytest.mark.parametrize(
    ("before", "now", "boot", "recent", "becomes"),
    [
        # a failure of an earlier boot
        (("wedged", 2, 1), ("capable", 2, 0), 1, CYCLE, "probation"),
        (("wedged", 2, 1), ("capable", 9, 5), 1, CYCLE, "probation"),
        (("wedged", 2, 1), ("proven", 2, 0), 1, EARLIER, "probation"),
        (("wedged", 2, 1), ("proven", 2, 0), 1, CYCLE, "proven"),
        # one of this boot
        (("wedged", 2, 1), ("proven", 9, 5), 0, CYCLE, "wedged"),
        (("one-shot", 2, 1), ("capable", 9, 5), 0, CYCLE, "one-shot"),
        # none
        (("proven", 6, 0), ("capable", 1, 0), 1, CYCLE, "capable"),
        (("capable", 6, 0), ("proven", 1, 0), 1, CYCLE, "proven"),
        (("capable", 6, 0), ("failing", 1, 1), 1, CYCLE, "failing"),
    ],
)
def test_another_journal(
    before: Told, now: Told, boot: int, recent: ResetEvent, becomes: str
) -> None:
    cluster = Cluster()
    one = Agent("pve01", host(before))
    join(cluster, one, one.snapshot)
    cluster.close(one)
    cluster.wait(30.0)
    join(cluster, one, host(now, boot=boot, recent=recent), journal="another")
    assert state_now(cluster, one) == becomes
    rows = cluster.state.next_seq
    cluster.observe(one)
    assert state_now(cluster, one) == becomes
    assert cluster.state.next_seq == rows, "it is written once"
    cluster.restart()
    join(cluster, one, one.snapshot, journal="another")
    assert state_now(cluster, one) == becomes


def test_the_same_journal_is_believed_where_it_knows_no_less() -> None:
    for now, becomes in (
        (("capable", 3, 1), "capable"),
        (("capable", 1, 1), "probation"),
        (("capable", 9, 0), "probation"),
    ):
        cluster = Cluster()
        one = Agent("pve01", host(("wedged", 2, 1)))
        join(cluster, one, one.snapshot)
        join(cluster, one, host(now, boot=1))
        assert state_now(cluster, one) == becomes


def test_a_failure_of_this_boot_condemns_whatever_another_journal_counts() -> None:
    cluster = Cluster()
    one = Agent("pve01", host(("wedged", 2, 1)))
    join(cluster, one, one.snapshot)
    cluster.close(one)
    cluster.wait(30.0)
    join(cluster, one, host(("capable", 5, 0)), journal="another")
    (standing,) = cluster.state.nodes["pve01"].standings
    assert [r.code for r in standing.refusing if r.code.startswith("RESET_")] == ["RESET_WEDGED"]


def accepts(cluster: Cluster, one: Agent) -> bool:
    """Whether the policy, asked now, takes the node for known good."""
    cluster.set_policy(PolicyView, "baseline=auto", "baseline-resets=proven")
    cluster.observe(one)
    return accepted_by(cluster) == ["auto:POLICY"]


@pytest.mark.parametrize(
    ("bios", "journal", "holds"),
    [
        ("F10", "state-pve01", True),
        ("F11", "state-pve01", False),
        ("F10", "another", False),
        ("F10", "", False),
    ],
)
def test_a_proof_is_of_one_journal_and_one_firmware(bios: str, journal: str, holds: bool) -> None:
    cluster = Cluster()
    one = Agent("pve01", host(("proven", 6, 0)))
    join(cluster, one, one.snapshot)
    seen = snapshot(*card(), boot=1, bios=bios, ledger=())
    join(cluster, one, seen, journal=journal)
    assert state_now(cluster, one) == ("proven" if holds else "capable")
    assert accepts(cluster, one) is holds


@pytest.mark.parametrize("serial", ["", "a0-36-9f-ff-ff-12-34-56"])
def test_what_its_place_was_told_proves_no_card_with_a_serial_number(serial: str) -> None:
    cluster = Cluster()
    one = Agent("pve01", host(("proven", 9, 0)))
    join(cluster, one, one.snapshot)
    join(cluster, one, snapshot(*card(serial), boot=1, ledger=()))
    assert accepts(cluster, one) is not bool(serial)
