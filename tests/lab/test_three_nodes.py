"""Three nodes, one coordinator: a VM goes to the only node that qualifies, and really starts there.

What the coordinator decides is held against each node's kernel: QEMU is started with exactly the
functions of the claim, and with the same devices where placement was refused. Then the node
regresses, and in the end it dies. Each state of the cluster is a fixture that builds on the last.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass

import pytest

from tests.lab.cluster import Answer, Cluster, serving
from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Row
from vfio_contract.findings import Verdict
from vfio_contract.views import BaselineView, Decision, NodeView, Placement

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

CLEAN, DIRTY, IR_OFF = scenarios.NODE_CLEAN, scenarios.NODE_DIRTY, scenarios.NODE_IR_OFF
NODES = (CLEAN.name, DIRTY.name, IR_OFF.name)
DISPLAY, AUDIO, DISK = "0000:03:00.0", "0000:03:00.1", "0000:02:00.0"
# At which stage the graphics card is refused, its code, and what the kernel lets QEMU say there.
WHY_NOT = {
    DIRTY.name: ("isolation", "GROUP_NOT_VIABLE", "is not viable"),
    IR_OFF.name: ("platform", "IRQ_REMAP_OFF", "Operation not permitted"),
}


@dataclass(frozen=True, slots=True)
class Three:
    """The cluster and its machines by node name."""

    cluster: Cluster
    guests: Mapping[str, Guest]

    def start(self, node: str, vm: str, *addresses: str) -> tuple[bool, str]:
        """Start QEMU on the node with these functions of one slot: whether it runs, its words."""
        got = self.guests[node].call("nested.start", name=vm, addresses=addresses, slot=True)
        return bool(got["started"]), str(got["text"])


@pytest.fixture(scope="module")
def three(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Three]:
    """All nodes are ready: each agent is heard and the evidence of its first boot was taken."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("three") / "c"
        cluster = stack.enter_context(serving(folder, *NODES))
        with ThreadPoolExecutor() as pool:
            machines = (CLEAN, DIRTY, IR_OFF)
            guests = list(pool.map(lambda m: stack.enter_context(boot(m)), machines))
        found = Three(cluster, dict(zip(NODES, guests, strict=True)))
        for node, guest in found.guests.items():
            cluster.join(guest, node)
        for node in NODES:
            cluster.until_state(node, "ready")
        yield found


def test_each_node_shows_what_its_machine_can_give(three: Three) -> None:
    answer = three.cluster.vfioctl("status", "--cluster", "--detail")
    views = {view.name: view for view in three.cluster.ask().list_nodes()}

    assert {name: (v.units_free, v.units_total) for name, v in views.items()} == {
        CLEAN.name: (3, 3),
        DIRTY.name: (2, 3),
        IR_OFF.name: (0, 3),
    }
    assert {name: v.verdict for name, v in views.items()} == {
        CLEAN.name: Verdict.WARN,
        DIRTY.name: Verdict.FAIL,
        IR_OFF.name: Verdict.FAIL,
    }
    assert answer.status == 2
    assert states_on(answer.text) == dict.fromkeys(NODES, "ready")
    assert "IRQ_REMAP_OFF" in answer.text
    assert "GROUP_NOT_VIABLE" in answer.text


def states_on(screen: str) -> dict[str, str]:
    """Each node's state as the table of nodes on the status screen shows it."""
    table = screen.partition("\nNODES ")[2].partition("\nUNITS ")[0]
    rows = [line.split() for line in table.splitlines()]
    return {row[0]: row[1] for row in rows if row and row[0] in NODES}


# --- a VM with a graphics card -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Placed:
    """The VM's place, what a person saw, and what each other node was good for before."""

    three: Three
    placement: Placement
    screen: Answer
    elsewhere: Mapping[str, Decision]


@pytest.fixture(scope="module")
def placed(three: Three) -> Placed:
    """What is there now is accepted as known-good, and the VM gets the card."""
    cluster = three.cluster
    elsewhere = {n: cluster.place("render-1", "gpu", node=n, dry_run=True) for n in WHY_NOT}
    assert isinstance(cluster.ask().accept_baseline(CLEAN.name), BaselineView)
    cluster.until_state(CLEAN.name, "ready")
    screen = cluster.vfioctl("vm", "place", "render-1", "--device", "gpu")
    _, _, placement = cluster.ask().explain("render-1")
    assert placement is not None, screen.text
    # A second VM there has the disk, which the dirty node could give just as well.
    assert cluster.place("store-1", "nvme", node=CLEAN.name).placement is not None
    return Placed(three, placement, screen, elsewhere)


def test_the_vm_goes_to_the_only_node_that_qualifies(placed: Placed) -> None:
    (unit,) = placed.placement.units

    assert placed.screen.status == 0, placed.screen.text
    assert placed.placement.node == CLEAN.name
    assert (unit.assign, unit.hold) == ((DISPLAY, AUDIO), ())
    assert {proof.gate for proof in unit.proof} >= {
        *("iommu-active", "interrupt-remapping", "group-isolation", "host-critical"),
        *("driver-binding", "reset-capability", "reset-history"),
    }
    assert {proof.verdict for proof in unit.proof} == {Verdict.PASS}
    assert "PLACED  render-1 on node-clean" in placed.screen.text


@pytest.mark.parametrize("node", WHY_NOT)
def test_the_others_are_refused_for_what_they_are(placed: Placed, node: str) -> None:
    stage, code, _ = WHY_NOT[node]
    refusal = placed.elsewhere[node].refusal

    assert refusal is not None
    assert [row.stage for row in refusal.stages] == [stage]
    assert code in refusal.nodes[0].reason


@pytest.mark.parametrize("node", WHY_NOT)
def test_the_kernel_refuses_where_placement_did(
    placed: Placed, table: list[Row], node: str
) -> None:
    started, text = placed.three.start(node, "refused", DISPLAY, AUDIO)
    words = WHY_NOT[node][2]
    observed = "starts" if started else words if words in text else text
    table.append(Row(node, "placement", f"{DISPLAY}+{AUDIO}", "QEMU", words, observed))

    assert observed == words


@pytest.fixture(scope="module")
def running(placed: Placed, table: list[Row]) -> Placed:
    """The VM runs on its node, with the functions of its claim and no others."""
    (unit,) = placed.placement.units
    started, text = placed.three.start(CLEAN.name, "render-1", *unit.assign)
    observed = "starts" if started else text
    where = "+".join(unit.assign)
    table.append(Row(CLEAN.name, "placement", where, "QEMU", "starts", observed))
    assert started, text
    return placed


def test_the_vm_really_runs_there(running: Placed) -> None:
    guest = running.three.guests[CLEAN.name]

    assert guest.call("nested.status", name="render-1") == "prelaunch"
    assert guest.call("vfio.attempt", address=DISPLAY)["errno"] == "EBUSY"


# --- the node regresses --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Regressed:
    """The node after its audio function went back to the host."""

    three: Three
    view: NodeView


@pytest.fixture(scope="module")
def regressed(running: Placed) -> Regressed:
    """Between two runs of the VM its audio function is given to the host's driver."""
    three = running.three
    guest = three.guests[CLEAN.name]
    guest.call("nested.stop", name="render-1")
    assert guest.call("host.bind", address=AUDIO, driver="snd_hda_intel") == "snd_hda_intel"
    return Regressed(three, three.cluster.until_state(CLEAN.name, "cordoned"))


def test_the_node_is_cordoned_for_what_happened(regressed: Regressed) -> None:
    cordons = {r.code: r for r in regressed.view.reasons if r.owner == "auto:BINDING_LOST"}
    status = regressed.three.cluster.vfioctl("status", "--cluster", "--detail")
    vms = {vm.name: vm for vm in regressed.three.cluster.ask().list_vms()}

    assert set(cordons) == {"BINDING_LOST"}, regressed.view
    assert AUDIO in cordons["BINDING_LOST"].text
    assert "render-1" in cordons["BINDING_LOST"].text
    assert "store-1" not in cordons["BINDING_LOST"].text
    assert status.status == 2
    assert states_on(status.text) == {
        CLEAN.name: "cordoned",
        DIRTY.name: "ready",
        IR_OFF.name: "ready",
    }
    assert "BINDING_LOST" in status.text
    assert vms["render-1"].at_risk.startswith("BINDING_LOST")
    assert vms["store-1"].at_risk == ""


def test_the_kernel_would_not_start_the_vm_again(regressed: Regressed, table: list[Row]) -> None:
    started, text = regressed.three.start(CLEAN.name, "render-1", DISPLAY, AUDIO)
    words = "is not viable"
    observed = "starts" if started else words if words in text else text
    table.append(Row(CLEAN.name, "regressed", f"{DISPLAY}+{AUDIO}", "QEMU", words, observed))

    assert observed == words


def test_the_next_vm_fits_nowhere_and_hears_why(regressed: Regressed) -> None:
    cluster = regressed.three.cluster
    answer = cluster.vfioctl("vm", "place", "render-2", "--device", "gpu")
    decision, _, _ = cluster.ask().explain("render-2")

    assert answer.status == 2
    assert decision.refusal is not None
    assert {row.node: row.stage for row in decision.refusal.nodes} == {
        CLEAN.name: "admitted",
        DIRTY.name: "isolation",
        IR_OFF.name: "platform",
    }
    reasons = {row.node: row.reason for row in decision.refusal.nodes}
    assert "BINDING_LOST" in reasons[CLEAN.name]
    for node, (_, code, _) in WHY_NOT.items():
        assert code in reasons[node]
    for node in NODES:
        assert node in answer.text


def test_a_vm_that_the_dirty_node_can_serve_goes_there(regressed: Regressed) -> None:
    decision = regressed.three.cluster.place("store-2", "nvme", dry_run=True)

    assert decision.placement is not None
    assert decision.placement.node == DIRTY.name
    assert decision.placement.units[0].assign == (DISK,)


# --- the node dies -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lost(regressed: Regressed) -> Three:
    """The power of the node fails."""
    emulator = regressed.three.guests[CLEAN.name].log_folder / "qemu.pid"
    os.kill(int(emulator.read_text()), signal.SIGKILL)
    regressed.three.cluster.until_state(CLEAN.name, "lost")
    return regressed.three


def test_what_a_lost_node_had_is_claimed_nowhere_else(lost: Three) -> None:
    coordinator = lost.cluster.ask()
    views = {view.name: view for view in coordinator.list_nodes()}
    vms = {vm.name: vm for vm in coordinator.list_vms()}

    assert {name: vm.node for name, vm in vms.items()} == {
        "render-1": CLEAN.name,
        "store-1": CLEAN.name,
    }
    assert all(vm.at_risk.startswith("NODE_LOST: ") for vm in vms.values())
    assert views[CLEAN.name].vms == ("render-1", "store-1")
    assert views[CLEAN.name].verdict is Verdict.UNKNOWN
    # The dirty node could take the disk's VM: only whoever knows that it does not run may do that.
    assert (views[DIRTY.name].state, views[DIRTY.name].vms) == ("ready", ())
    assert views[DIRTY.name].units_free == 2


def test_status_says_that_its_vms_may_still_run(lost: Three) -> None:
    status = lost.cluster.vfioctl("status", "--cluster", "--detail")

    assert status.status == 2
    assert states_on(status.text)[CLEAN.name] == "lost"
    assert "NODE_LOST" in status.text
    assert "its 2 VMs may still run" in " ".join(status.text.split())
