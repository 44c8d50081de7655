"""Hot-plug: cards that come, go, move to another group and lose what bound them to vfio-pci.

Each change is made by the hardware (QEMU's monitor) or by the kernel's own files, and each is seen
as a difference between two reports of the same machine. Then the machine joins a cluster, and the
same changes are to be read there: in the node's state, on its VMs and in the event log.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.lab.cluster import Cluster, serving
from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.observation import Observation, Row, check, observe
from tests.lab.prediction import Report
from vfio_contract.views import BaselineView, Event, NodeView, VmView

pytestmark = [pytest.mark.lab, pytest.mark.timeout(1500)]

FIRST_PORT, SECOND_PORT = "0000:00:0a.0", "0000:00:0b.0"
UNPLUG_LIMIT_S = 60
NODE = "plugbox"


@dataclass(frozen=True, slots=True)
class Story:
    """Two cards are plugged in; the first leaves, the second is removed, found again, lost."""

    empty: Report
    first: str
    second: str
    plugged: Observation
    group_before: str
    group_after: str
    override_after: str
    rescanned: Observation
    held: Report
    holder: int
    holder_lived: bool
    released: Report
    switched_off: Report


@pytest.fixture(scope="module")
def guest(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.HOTPLUG) as guest:
        yield guest


@pytest.fixture(scope="module")
def story(guest: Guest, table: list[Row]) -> Story:
    empty = check(guest, "empty")

    first = plug(guest, FIRST_PORT, "first", bus="rp10")
    second = plug(guest, SECOND_PORT, "second", bus="rp11")
    assert guest.call("host.bind", address=second) == "vfio-pci"
    plugged = observe(guest, "plugged")
    group_before = guest.call("hotplug.group_of", address=second)

    # The first card's group number is free now, and the lowest free one is given out next.
    unplug(guest, FIRST_PORT, "first")
    guest.call("hotplug.remove", address=second)
    guest.call("hotplug.rescan")
    assert guest.call("hotplug.await_below", port=SECOND_PORT, count=1) == [second]
    rescanned = observe(guest, "rescanned")
    group_after = guest.call("hotplug.group_of", address=second)
    override_after = guest.call("hotplug.override_of", address=second)
    table.extend((*plugged.rows, *rescanned.rows))

    # Pulled while a VM has it: the kernel asks the holder and waits.
    assert guest.call("host.bind", address=second) == "vfio-pci"
    assert guest.call("nested.start", name="holder", addresses=[second])["started"]
    since = guest.call("host.kernel_time")
    guest.monitor.execute("device_del", id="second")
    guest.call("host.await_log", texts=["Relaying device request to user"], since=since)
    held = check(guest, "held")
    holder = guest.call("nested.pid", name="holder")
    holder_lived = guest.call("nested.status", name="holder") == "prelaunch"
    guest.call("nested.stop", name="holder")
    await_deleted(guest, "second")
    guest.call("hotplug.await_below", port=SECOND_PORT, count=0)
    released = check(guest, "released")

    # Plugged again, and its slot switched off at the host.
    again = plug(guest, SECOND_PORT, "third", bus="rp11")
    assert again == second
    slot = guest.call("hotplug.slot_of", address=again)
    guest.call("hotplug.switch", slot=slot, power=False)
    await_deleted(guest, "third")
    switched_off = check(guest, "switched-off")
    return Story(
        empty,
        first,
        second,
        plugged,
        group_before,
        group_after,
        override_after,
        rescanned,
        held,
        holder,
        holder_lived,
        released,
        switched_off,
    )


def test_cards_appear_in_the_report(story: Story) -> None:
    assert {story.first, story.second}.isdisjoint(story.empty.functions())
    assert {story.first, story.second} <= set(story.plugged.report.functions())
    bindings = {
        a: story.plugged.report.code("driver-binding", f"function:{a}")
        for a in (story.first, story.second)
    }
    assert bindings == {
        story.first: "BINDING_HOST_DRIVER",
        story.second: "BINDING_NOT_PERSISTENT",
    }


def test_plugged_cards_answer_as_predicted(story: Story) -> None:
    assert story.plugged.disagreements == []
    assert story.plugged.answer(story.second) == "opened"
    # A drive with an FLR of its own: the report says nothing of its bus.
    for seen in (story.plugged, story.rescanned):
        assert seen.unclaimed == {("0000:02:00.0", "hot reset")}


def test_a_rescan_gives_another_group_and_forgets_the_override(story: Story) -> None:
    """What the kernel did; without it the next tests would prove nothing."""
    assert story.group_before != story.group_after
    assert story.override_after == ""


def test_the_report_sees_the_lost_binding(story: Story) -> None:
    before, after = story.plugged.report, story.rescanned.report
    subject = f"function:{story.second}"
    assert before.code("driver-binding", subject) == "BINDING_NOT_PERSISTENT"
    assert after.code("driver-binding", subject) == "BINDING_HOST_DRIVER"
    assert story.rescanned.disagreements == []
    assert story.rescanned.answer(story.second) == "group ENOENT"


def test_a_group_number_is_no_identity(story: Story) -> None:
    before, after = story.plugged.report, story.rescanned.report
    assert before.group_of(story.second) == f"group:{story.group_before}"
    assert after.group_of(story.second) == f"group:{story.group_after}"
    # The same unit, and still as isolated as before.
    assert unit_of(before, story.second) == unit_of(after, story.second)
    for report in (before, after):
        assert report.code("group-isolation", report.group_of(story.second)) == "GROUP_CLEAN"


def test_an_unplugged_card_is_gone_from_the_report(story: Story) -> None:
    assert story.first not in story.rescanned.report.functions()


def test_a_card_that_is_being_pulled_is_still_held(story: Story) -> None:
    subject, waits = f"function:{story.second}", f"its removal waits for pid {story.holder}"
    assert story.holder_lived
    assert story.held.code("driver-binding", subject) == "HELD_UNBOUND"
    assert story.held.code("device-holders", subject) == "HOLDER_STALE"
    assert waits in story.held.text("device-holders", subject, "stale")
    assert story.second not in story.released.functions()


def test_the_vm_that_is_about_to_lose_its_card_is_named(story: Story) -> None:
    vm = f"vm:pid-{story.holder}"
    before, after = (r.codes("vm-functions") for r in (story.plugged.report, story.released))
    assert story.held.codes("vm-functions") == {vm: "VM_HELD_UNBOUND"}
    assert vm not in before
    assert vm not in after


def test_a_slot_without_power_is_empty(story: Story) -> None:
    assert story.switched_off.functions() == story.empty.functions()


# --- what the cluster is told --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Told:
    """Two drives are plugged in, every drive goes to a VM, and both are taken away under them.

    `first` leaves by the button, `second` by its slot's power. `vms` are those that lost theirs.
    """

    first: str
    second: str
    empty: NodeView
    plugged: NodeView
    plugged_events: tuple[Event, ...]
    gone: NodeView
    gone_events: tuple[Event, ...]
    vms: tuple[VmView, ...]
    status: str


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    with serving(tmp_path_factory.mktemp("plug") / "c", NODE) as found:
        yield found


@pytest.fixture(scope="module")
def told(guest: Guest, story: Story, cluster: Cluster) -> Told:
    """The machine of the story, whose slots are empty again."""
    cluster.join(guest, NODE)
    cluster.until_state(NODE, "ready")
    assert isinstance(cluster.ask().accept_baseline(NODE), BaselineView)
    empty = cluster.until_state(NODE, "ready")

    # vfio-pci takes drives of this id by itself: they are meant for VMs from the first look on.
    first = add(guest, FIRST_PORT, driver="nvme", id="fourth", bus="rp10", serial="NVMEPLUG4")
    second = add(guest, SECOND_PORT, driver="nvme", id="fifth", bus="rp11", serial="NVMEPLUG5")
    cluster.until(NODE, lambda view: {first, second} <= free(view), what="the owner of both drives")
    plugged = cluster.until_state(NODE, "ready")
    plugged_events = cluster.events()
    for number in range(3):
        assert cluster.place(f"store-{number}", "nvme").placement is not None
    before = {vm.name for vm in cluster.ask().list_vms() if {first, second} & set(vm.addresses)}

    unplug(guest, FIRST_PORT, "fourth")
    slot = guest.call("hotplug.slot_of", address=second)
    guest.call("hotplug.switch", slot=slot, power=False)
    await_deleted(guest, "fifth")

    def lost_both(view: NodeView) -> bool:
        cordons = (r.text for r in view.reasons if r.owner == "auto:DEVICE_VANISHED")
        return any(first in text and second in text for text in cordons)

    cluster.until(NODE, lost_both, what="without both drives")
    gone = cluster.until_state(NODE, "cordoned")
    vms = tuple(vm for vm in cluster.ask().list_vms() if vm.name in before)
    status = cluster.vfioctl("status", "--cluster", "--detail").text
    events = cluster.events()
    assert events[: len(plugged_events)] == plugged_events
    return Told(
        first,
        second,
        empty,
        plugged,
        plugged_events,
        gone,
        events[len(plugged_events) :],
        vms,
        status,
    )


def free(view: NodeView) -> set[str]:
    """The addresses that the node could give to a VM now."""
    return {a for unit in view.units if unit.state == "free" for a in unit.addresses}


def test_the_cluster_is_told_of_cards_that_come(told: Told) -> None:
    appeared = [e.text for e in told.plugged_events if e.code == "DEVICE_APPEARED"]
    drift = {(c.code, c.address_after) for c in told.plugged.drift}

    assert {told.first, told.second}.isdisjoint(free(told.empty))
    assert told.plugged.units_total == told.empty.units_total + 2
    assert drift == {("DEVICE_APPEARED", told.first), ("DEVICE_APPEARED", told.second)}
    for address in (told.first, told.second):
        assert f"{address} 1b36:0010 is new" in " ".join(appeared)


def test_the_cluster_is_told_of_cards_that_go_and_names_their_vms(told: Told) -> None:
    """One by the button, one by its slot's power."""
    (cordon,) = [r for r in told.gone.reasons if r.owner == "auto:DEVICE_VANISHED"]
    vanished = [e.text for e in told.gone_events if e.code == "DEVICE_VANISHED"]
    holders = {vm.addresses[0]: vm for vm in told.vms}

    assert set(holders) == {told.first, told.second}
    assert vanished
    for address, vm in holders.items():
        assert vm.at_risk.startswith("DEVICE_VANISHED")
        assert f"{address}, claimed by {vm.name}, is not in the inventory" in cordon.text
        assert f"{address}, claimed by {vm.name}, is not in the inventory" in vanished[-1]
        assert vm.name in told.status
    assert "DEVICE_VANISHED" in told.status


def unit_of(report: Report, address: str) -> list[str]:
    """The units whose finding names this function as evidence."""
    return [s for s in report.codes("device-functions") if report.names(s, address)]


def plug(guest: Guest, port: str, name: str, *, bus: str) -> str:
    """Put a NIC into an empty slot; its address once its driver has it."""
    mac = {"first": "01", "second": "02", "third": "02"}[name]
    return add(guest, port, driver="e1000e", id=name, bus=bus, mac=f"52:54:00:aa:00:{mac}")


def add(guest: Guest, port: str, **device: str) -> str:
    """Plug any card into an empty slot; its address once its driver has it."""
    guest.monitor.execute("device_add", **device)
    found: list[str] = guest.call("hotplug.await_below", port=port, count=1)
    return found[0]


def unplug(guest: Guest, port: str, name: str) -> None:
    """Press the button and wait until kernel and hardware have let go."""
    guest.monitor.execute("device_del", id=name)
    await_deleted(guest, name)
    guest.call("hotplug.await_below", port=port, count=0)


def await_deleted(guest: Guest, name: str) -> None:
    """Wait for QEMU's word that the device is gone: its name and slot are free then."""
    end = time.monotonic() + UNPLUG_LIMIT_S
    while not any(
        event["event"] == "DEVICE_DELETED" and event["data"].get("device") == name
        for event in guest.monitor.events
    ):
        assert time.monotonic() < end, f"{name} is still plugged in after {UNPLUG_LIMIT_S} s"
        # An event is read along with the next answer.
        guest.monitor.execute("query-status")
