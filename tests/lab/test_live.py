"""The live agent: what happens on a host is on the cluster's screen, and in its log exactly once.

One machine joins a cluster and is changed by hand, while a terminal shows the status and a pipe
gets every event; in between the agent's processes are killed. How long each change took to be seen
is printed, never asserted: the machine is emulated.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from tests.lab.cluster import Cluster, serving
from tests.lab.conftest import Boot
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.watching import EventWatch, StatusWatch, following_events, watching_status
from vfio_contract.views import BaselineView, Event, NodeView

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]

NODE = "livebox"
# No look by the clock comes into it; the longest that hostd lets itself be told.
SELDOM_S = 600
# What nobody is told of, a register for one, is found by the clock.
OFTEN_S = 20
NIC, NVME, IGB = "0000:01:00.0", "0000:02:00.0", "0000:03:00.0"
VFS = ("0000:03:10.0", "0000:03:10.2")
NIC_PORT = "0000:00:02.0"
# What happens to the host is an event of one of these codes; the others are the coordinator's own.
CODES = {
    *("DEVICE_ADDED", "DEVICE_REMOVED", "BINDING_CHANGED", "HOLDER_CHANGED", "KERNEL_LINE"),
    *("RESET_ATTEMPT", "EVENTS_LOST", "EVENT_UNREADABLE"),
}


@dataclass(slots=True)
class Live:
    """The node and those who watch it.

    `asleep`: the power of NVME, which no test touches, before the agent's first look.
    `waited`: what happened, and the seconds until it was on the screen. `told`: the events of
    CODES that must be in the log, code, address and words of each.
    """

    guest: Guest
    cluster: Cluster
    screen: StatusWatch
    events: EventWatch
    asleep: dict[str, str]
    waited: list[tuple[float, str]] = field(default_factory=list)
    told: list[tuple[str, str, str]] = field(default_factory=list)

    def see(self, code: str, words: str, *addresses: str) -> None:
        """Wait until the screen says these words of each function, as a row of this code."""
        began = time.monotonic()
        for address in addresses:
            unfolded = re.escape("".join(words.split()))
            self.screen.until(rf"{re.escape(address)}\([^()]*\):{unfolded}")
            self.told.append((code, address, words))
        self.waited.append((time.monotonic() - began, f"{' '.join(addresses)} {words}"))

    def write_line(self, line: str) -> str:
        """Put a line into the kernel's log as a process can; how it is told."""
        assert self.guest.call("host.write", path="/dev/kmsg", text=f"{line}\n") == ""
        return f"not-ready-gave-up: {line} (a process wrote this, not the kernel)"


@pytest.fixture(scope="module")
def live(boot: Boot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The node is ready, and what it has is accepted as known-good."""
    with (
        serving(tmp_path_factory.mktemp("live") / "c", NODE) as cluster,
        boot(scenarios.LIVE) as guest,
    ):
        asleep = guest.call("asleep.power", address=NVME)
        cluster.join(guest, NODE)
        cluster.until_state(NODE, "ready")
        assert isinstance(cluster.ask().accept_baseline(NODE), BaselineView)
        cluster.until_state(NODE, "ready")
        guest.call("agent.look_seldom", interval_s=SELDOM_S)
        with watching_status(cluster) as screen, following_events(cluster) as events:
            yield (found := Live(guest, cluster, screen, events, asleep))
        for seconds, what in found.waited:
            print(f"{seconds:6.1f} s  {what}")


def test_a_device_that_goes_and_comes_back(live: Live) -> None:
    """The only NIC: its row leaves the table of units, and the node is cordoned meanwhile."""
    live.screen.until("NODES11ready.*nic110000")
    live.guest.call("hotplug.remove", address=NIC)
    live.see("DEVICE_REMOVED", "left the bus 8086:10d3", NIC)
    live.screen.until("HEALTH.*DEVICE_VANISHED1node.*NODES11cordoned.*gpu100010nvme")

    live.guest.call("hotplug.rescan")
    live.see("DEVICE_ADDED", "came to the bus 8086:10d3", NIC)
    live.screen.until("NODES11ready.*nic110000")


def test_a_line_that_a_process_wrote_is_told_as_such(live: Live) -> None:
    """It reads like the kernel's own word for a reset that failed."""
    told = live.write_line(f"vfio-pci {NVME}: not ready 65535ms after FLR; giving up")
    live.see("KERNEL_LINE", told, NVME)


def test_virtual_functions_are_made_and_removed(live: Live) -> None:
    assert live.guest.call("sriov.make", address=IGB, count=2) == list(VFS)
    live.see("DEVICE_ADDED", "came to the bus 8086:10ca", *VFS)

    live.guest.call("sriov.begin_removal", address=IGB)
    assert live.guest.call("sriov.end_removal", address=IGB) == ""
    live.see("DEVICE_REMOVED", "left the bus 8086:10ca", *VFS)


def test_a_driver_is_rebound(live: Live) -> None:
    """Step by step, because a look may come in between."""
    before = "igb"
    for driver in ("", "vfio-pci", "", "igb"):
        assert live.guest.call("host.bind", address=IGB, driver=driver) == driver
        live.see("BINDING_CHANGED", f"{before or 'no driver'} -> {driver or 'no driver'}", IGB)
        before = driver


def test_a_holder_comes(live: Live) -> None:
    """A VM that the cluster did not start: its unit is foreign meanwhile."""
    assert live.guest.call("nested.start", name="holder", addresses=[NIC])["started"]
    holder = live.guest.call("nested.pid", name="holder")
    live.see("HOLDER_CHANGED", f"qemu-system-x86 ({holder}) opened it", NIC)
    live.screen.until("nic100100")


def test_a_line_written_while_hostd_was_dead_is_told_once_it_is_back(live: Live) -> None:
    assert live.guest.call("agent.kill", which="hostd") == -9
    told = live.write_line(f"vfio-pci {NVME}: not ready 65535ms after bus reset; giving up")
    live.screen.until("HEALTH.*HOSTD_AWAY")

    live.guest.call("agent.start_again", which="hostd")
    live.see("KERNEL_LINE", told, NVME)
    # Its absence is still among what was told last.
    live.screen.until_so(lambda text: "HOSTD_AWAY" not in health_of(text), what="hostd is back")


def test_a_holder_that_goes_while_nobody_can_tell_is_told_of_later(live: Live) -> None:
    """hostd keeps what it saw until a network process is there again."""
    holder = live.guest.call("nested.pid", name="holder")
    assert live.guest.call("agent.kill", which="network") == -9
    live.guest.call("nested.stop", name="holder")

    live.guest.call("agent.start_again", which="network")
    live.see("HOLDER_CHANGED", f"qemu-system-x86 ({holder}) let go of it", NIC)
    # How its start went, or that nobody could tell.
    live.told.append(("RESET_ATTEMPT", NIC, f"(pid {holder}, started"))
    live.screen.until("nic110000")


def test_a_device_that_sleeps_is_left_asleep(live: Live) -> None:
    """The agent has looked at the host after each of these changes; not for a millisecond."""
    assert (live.asleep["power_state"], live.asleep["runtime_status"]) == ("D3hot", "suspended")
    assert live.guest.call("asleep.power", address=NVME) == live.asleep


def test_each_of_it_is_in_the_log_once(live: Live) -> None:
    """Also what nobody wrote down here would be one too many."""
    for code, address, words in live.told:
        live.events.until(code, address, words)
    rows = live.events.rows
    log = live.cluster.events()

    assert tuple(rows) == log[: len(rows)]
    told = [row for row in rows if row.code in CODES and not _is_probe(row)]
    assert len(told) == len(live.told), [row.text for row in told]
    for code, address, words in live.told:
        found = [r for r in told if r.code == code and address in r.text and words in r.text]
        assert len(found) == 1, (code, address, words, found)


def health_of(text: str) -> str:
    """The first part of the cluster's screen."""
    return text.partition("NODES")[0]


def _is_probe(row: Event) -> bool:
    """A look may fall between a function that is added and its driver."""
    return row.code == "BINDING_CHANGED" and NIC in row.text and "no driver -> vfio-pci" in row.text


# --- what is no longer as at the baseline --------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Drifted:
    """The node before its changes, after all of them, and when they are undone. `groups` are the
    kernel's numbers for NIC, before and after."""

    before: NodeView
    after: NodeView
    undone: NodeView
    groups: tuple[str, str]


@pytest.fixture(scope="module")
def drifted(live: Live) -> Drifted:
    """The port of a VM's card loses its ACS, a drive its driver, and a card lends functions."""
    guest, cluster = live.guest, live.cluster
    assert cluster.place("train-9", "nic").placement is not None
    before = cluster.until_state(NODE, "ready")
    group = guest.call("hotplug.group_of", address=NIC)
    guest.call("agent.look_seldom", interval_s=OFTEN_S)
    control = guest.call("port.clear_acs", port=NIC_PORT)
    assert guest.call("host.bind", address=NVME, driver="nvme") == "nvme"
    assert guest.call("sriov.make", address=IGB, count=2) == list(VFS)
    wanted = {"ACS_CLEARED", "BINDING_LOST", "VF_COUNT_CHANGED"}
    cluster.until(
        NODE,
        # a look may fall between the count and the functions
        lambda view: wanted <= codes_of(view) and came(view) == set(VFS),
        what=f"told of {wanted} and {VFS}",
    )
    after = cluster.until_state(NODE, "cordoned")
    groups = (group, guest.call("hotplug.group_of", address=NIC))

    guest.call("port.set_acs", port=NIC_PORT, control=control)
    assert guest.call("host.bind", address=NVME) == "vfio-pci"
    guest.call("sriov.begin_removal", address=IGB)
    assert guest.call("sriov.end_removal", address=IGB) == ""
    cluster.until(NODE, lambda view: not wanted & codes_of(view), what="as it was")
    return Drifted(before, after, cluster.until_state(NODE, "ready"), groups)


def codes_of(view: NodeView) -> set[str]:
    return {change.code for change in view.drift}


def came(view: NodeView) -> set[str]:
    return {c.address_after for c in view.drift if c.code == "DEVICE_APPEARED"}


def test_nothing_differs_from_the_baseline_before(drifted: Drifted) -> None:
    assert codes_of(drifted.before) == set()


def test_acs_that_was_cleared_cordons_though_the_groups_look_clean(drifted: Drifted) -> None:
    """The kernel made its groups at boot and does not look again."""
    (cordon,) = [r for r in drifted.after.reasons if r.owner == "auto:ACS_CLEARED"]
    (change,) = [c for c in drifted.after.drift if c.code == "ACS_CLEARED"]

    assert drifted.groups[0] == drifted.groups[1] != ""
    assert drifted.after.state == "cordoned"
    assert change.address_after == NIC_PORT
    assert (change.before, change.after) == ("ACSCtl 0x1d", "ACSCtl 0x00")
    assert "affects train-9" in cordon.text


def test_a_lost_binding_and_lent_functions_are_told_apart(drifted: Drifted) -> None:
    changes = {c.code: c for c in drifted.after.drift}

    assert changes["BINDING_LOST"].address_after == NVME
    assert (changes["BINDING_LOST"].before, changes["BINDING_LOST"].after) == ("vfio-pci", "nvme")
    assert changes["VF_COUNT_CHANGED"].address_after == IGB
    assert came(drifted.after) == set(VFS)


def test_what_is_undone_lifts_what_it_had_set(drifted: Drifted) -> None:
    assert codes_of(drifted.undone) == set()
    assert drifted.undone.state == "ready"
    assert drifted.undone.reasons == ()
