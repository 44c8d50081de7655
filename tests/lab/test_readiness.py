"""Truth of readiness: what `vfioctl check` says of each function is what VFIO and QEMU answer.

Each machine is asked as its owner left it; the wide one once more after everything was changed that
can stand between a device and a VM. Expectations about the machine itself (`opens`) are written
down here, so that report and kernel cannot agree on nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.lab.cluster import serving
from tests.lab.conftest import Boot
from tests.lab.hands import EVERYTHING, require
from tests.lab.harness import scenarios
from tests.lab.harness.machine import Guest
from tests.lab.harness.topology import SMALL_BOUND, Machine
from tests.lab.observation import Observation, Row, observe, start_nested, try_check
from tests.lab.watching import watching_status

pytestmark = [pytest.mark.lab, pytest.mark.timeout(900)]


@dataclass(frozen=True, slots=True)
class Case:
    """A machine, what VFIO lets a VM open there, and function sets that QEMU is started with.

    fails     -- everything that the report must hold against a subject, and against no other
    unclaimed -- whose hot reset the report says nothing of: each has an FLR of its own
    """

    machine: Machine
    opens: frozenset[str]
    fails: dict[str, str]
    unclaimed: frozenset[str]
    nested: tuple[tuple[str, ...], ...]
    smoke: bool = False


GPU_AND_AUDIO = ("0000:0b:00.0", "0000:0b:00.1")

HOST_USES = "BINDING_HOST_DRIVER HOST_CRITICAL"
# What every host in here lives on: network, root, the share of the lab, and a disk, whose
# controller shares its group with the rest of the chipset.
HOST = {
    **{f"0000:00:{at}": f"{HOST_USES} RESET_NONE" for at in ("1c.0", "1d.0", "1e.0", "1f.2")},
    **{f"0000:00:{at}": "HOST_CRITICAL" for at in ("1f.0", "1f.3")},
    "group of 0000:00:1f.0": "GROUP_DIRTY",
}
# Without groups there are no bindings to judge, and nothing shares one.
HOST_WITHOUT_GROUPS = {
    f"0000:00:{at}": "HOST_CRITICAL RESET_NONE" for at in ("1c.0", "1d.0", "1e.0", "1f.2")
}
# The wide machine's own: a bridge on the switch's NIC, LVM on its drive, a bond of two more NICs,
# two endpoints behind one PCI bridge, and a card on the root bus without driver or reset.
WIDE = {
    **HOST,
    **dict.fromkeys(("0000:06:00.0", "0000:07:00.0", "0000:0a:00.0", "0000:0c:00.0"), HOST_USES),
    "group of 0000:08:00.0": "GROUP_DIRTY",
    "0000:00:08.0": "NOT_BOUND RESET_NONE",
}

# The smoke case first: parametrized alike, the live node's test has the same machine, and is last.
CASES = (
    Case(
        scenarios.AMD_SMALL,
        frozenset(SMALL_BOUND),
        fails=HOST,
        unclaimed=frozenset({"0000:02:00.0"}),
        nested=(("0000:01:00.0",), ("0000:03:00.0", "0000:03:00.1")),
        smoke=True,
    ),
    Case(
        scenarios.WIDE_6_1,
        frozenset({"0000:01:00.0", "0000:02:00.0", "0000:03:00.0", *GPU_AND_AUDIO}),
        fails=WIDE,
        unclaimed=frozenset({"0000:02:00.0", "0000:03:00.0"}),
        nested=(
            ("0000:01:00.0",),  # clean
            ("0000:01:00.0", "0000:02:00.0"),
            GPU_AND_AUDIO,  # multi-function
            ("0000:0b:00.0",),  # half of it
            ("0000:09:01.0",),  # behind the PCI bridge on shpchp
            ("0000:06:00.0",),  # behind the switch, on its host driver
            ("0000:01:00.0", "0000:06:00.0"),
        ),
    ),
    Case(
        scenarios.WIDE_6_12,
        frozenset({"0000:01:00.0", "0000:02:00.0", "0000:03:10.0", "0000:03:10.2", *GPU_AND_AUDIO}),
        fails={
            **WIDE,
            "0000:03:00.0": "BINDING_HOST_DRIVER",
            "unit of 0000:03:00.0": "PF_HAS_VFS",
            "0000:09:01.0": "BINDING_HOST_DRIVER",
        },
        unclaimed=frozenset({"0000:02:00.0", "0000:03:10.0", "0000:03:10.2"}),
        nested=(
            ("0000:02:00.0",),
            GPU_AND_AUDIO,
            ("0000:09:02.0",),  # dirty: its neighbour is on a host driver
            ("0000:03:10.0",),  # a VF
            ("0000:03:00.0",),  # the PF that has VFs, with its host driver
        ),
    ),
    Case(
        scenarios.IOMMU_SWITCHED_OFF,
        frozenset(),
        fails={**HOST_WITHOUT_GROUPS, "node": "CMDLINE_SABOTAGE IOMMU_OFF"},
        unclaimed=frozenset(),
        nested=(("0000:01:00.0",),),
    ),
    Case(
        scenarios.IOMMU_ABSENT,
        frozenset(),
        fails={**HOST_WITHOUT_GROUPS, "node": "IOMMU_OFF IRQ_REMAP_OFF"},
        unclaimed=frozenset(),
        nested=(("0000:01:00.0",),),
    ),
    Case(
        scenarios.NO_INTERRUPT_REMAPPING,
        frozenset(),
        fails={**HOST, "node": "IRQ_REMAP_OFF"},
        unclaimed=frozenset(),
        nested=(("0000:02:00.0",),),
    ),
)

NODE_VERDICTS = {
    "ready-6.1": ("IOMMU_ACTIVE", "IRQ_REMAP_ON"),
    "ready-6.12": ("IOMMU_ACTIVE", "IRQ_REMAP_ON"),
    "ready-amd": ("IOMMU_ACTIVE", "IRQ_REMAP_ON"),
    # Interrupt remapping does not depend on DMA remapping.
    "ready-off": ("IOMMU_OFF", "IRQ_REMAP_ON"),
    "ready-none": ("IOMMU_OFF", "IRQ_REMAP_OFF"),
    "ready-ir-off": ("IOMMU_ACTIVE", "IRQ_REMAP_OFF"),
}


@pytest.fixture(
    scope="module",
    params=[
        pytest.param(c, id=c.machine.name, marks=pytest.mark.smoke if c.smoke else ())
        for c in CASES
    ],
)
def case(request: pytest.FixtureRequest) -> Case:
    found = request.param
    assert isinstance(found, Case)
    return found


@pytest.fixture(scope="module")
def guest(case: Case, boot: Boot) -> Iterator[Guest]:
    with boot(case.machine) as guest:
        yield guest


@pytest.fixture(scope="module")
def seen(guest: Guest, table: list[Row]) -> Observation:
    """The machine as its owner left it."""
    found = observe(guest, "as booted")
    table.extend(found.rows)
    return found


def test_the_node_is_what_the_machine_is(case: Case, seen: Observation) -> None:
    codes = (seen.report.code("iommu-active"), seen.report.code("interrupt-remapping"))

    assert codes == NODE_VERDICTS[case.machine.name]


def test_the_report_holds_nothing_else_against_anything(case: Case, seen: Observation) -> None:
    """Every failure of a function, a group, a unit and the node, and no other."""
    assert seen.report.failures() == case.fails


def test_vfio_answers_as_predicted(case: Case, seen: Observation) -> None:
    assert seen.disagreements == []
    assert seen.unclaimed == {(address, "hot reset") for address in case.unclaimed}


def test_vfio_opens_what_the_machine_was_built_for(case: Case, seen: Observation) -> None:
    opened = {a for a in seen.predictions if seen.answer(a) == "opened"}

    assert opened == case.opens


def test_a_function_without_a_failure_opens(seen: Observation) -> None:
    assert refused_though_unblamed(seen) == []


def test_qemu_starts_or_says_what_was_predicted(
    case: Case, guest: Guest, seen: Observation, table: list[Row]
) -> None:
    rows = []
    for addresses in case.nested:
        row, _ = start_nested(guest, seen, addresses)
        rows.append(row)
    table.extend(rows)

    assert [str(row) for row in rows if not row.agrees] == []
    # Something was refused or started as the machine's table wants it, not only as predicted.
    expected = ["starts" if set(a) <= case.opens else "refused" for a in case.nested]
    assert ["starts" if r.observed == "starts" else "refused" for r in rows] == expected


@pytest.mark.smoke
@pytest.mark.parametrize("case", [c for c in CASES if c.smoke], ids=["live"], indirect=True)
def test_a_live_node_is_acted_upon_and_that_is_seen(guest: Guest, tmp_path: Path) -> None:
    """In every run once: its NIC goes to the host and comes back, at a word of its owner."""
    nic = "0000:01:00.0"
    guest.call("actuate.allow", text=EVERYTHING)
    with serving(tmp_path / "c", "smokebox") as cluster:
        cluster.join(guest, "smokebox")
        cluster.until_state("smokebox", "ready")
        with watching_status(cluster) as screen:
            # bound by its id in modprobe.d, of which the host keeps the line
            for verb, driver in (("unbind", "e1000e"), ("bind", "vfio-pci")):
                done = guest.call("acting.device", verb=verb, address=nic, options=[])
                report = require(done, "done")
                # from the other driver, or from none where a look came in between
                screen.until(rf"{nic}\([^()]*\):[\w-]+->{driver}")
                screen.until(rf"{nic}\([^()]*\):{verb}{report['id'][:12]}done")


def refused_though_unblamed(seen: Observation) -> list[str]:
    """Functions that no finding about them, their group or the node fails, and yet do not open.

    A unit without a FAIL is what the scheduler gives to a VM.
    """
    found = []
    for address in seen.predictions:
        answer = seen.answer(address)
        if answer != "opened" and not seen.report.blames(address):
            found.append(f"{address}: {answer}")
    return found


# --- the wide machine, changed -------------------------------------------------------------------

PORT_BRIDGE = "0000:08:00.0"
PF, VFS = "0000:03:00.0", ("0000:03:10.0", "0000:03:10.2")


@pytest.fixture(scope="module")
def wide(boot: Boot) -> Iterator[Guest]:
    with boot(scenarios.WIDE_CHANGED) as guest:
        yield guest


@pytest.fixture(scope="module")
def changed(wide: Guest, table: list[Row]) -> Iterator[Observation]:
    """Everything else that can be: bound, unbound, held, a bridge unbound, VFs of a vfio PF."""
    for address in ("0000:06:00.0", "0000:0a:00.0", "0000:0c:00.0", "0000:00:08.0"):
        assert wide.call("host.bind", address=address) == "vfio-pci"
    # The PCI bridge leaves shpchp, and one of the two endpoints below it has no driver at all.
    assert wide.call("host.bind", address=PORT_BRIDGE, driver="") == ""
    assert wide.call("host.bind", address="0000:09:02.0", driver="") == ""
    # The audio function goes back to the host: its display function stays on vfio-pci.
    audio = wide.call("host.bind", address="0000:0b:00.1", driver="snd_hda_intel")
    assert audio == "snd_hda_intel"
    enable = "/sys/module/vfio_pci/parameters/enable_sriov"
    assert wide.call("host.write", path=enable, text="Y") == ""
    count = f"/sys/bus/pci/devices/{PF}/sriov_numvfs"
    assert wide.call("host.write", path=count, text="2") == ""
    assert wide.call("nested.start", name="holder", addresses=["0000:01:00.0"])["started"]
    with ExitStack() as stack:
        stack.callback(wide.call, "nested.stop", name="holder")
        found = observe(wide, "changed")
        table.extend(found.rows)
        yield found


def test_vfio_answers_as_predicted_after_the_changes(changed: Observation) -> None:
    assert changed.disagreements == []
    assert changed.unclaimed == {
        (a, "hot reset") for a in ("0000:02:00.0", "0000:0c:00.0", "0000:03:00.0")
    }


def test_the_report_holds_the_changes_against_whom_they_concern(
    wide: Guest, changed: Observation
) -> None:
    """What was given to vfio-pci is no longer the host's; everything else is as it was."""
    assert changed.report.failures() == {
        **HOST,
        "0000:07:00.0": HOST_USES,
        "group of 0000:08:00.0": "GROUP_DIRTY",
        "0000:09:02.0": "NOT_BOUND",
        "0000:0b:00.1": "BINDING_HOST_DRIVER",
        "group of 0000:0b:00.0": "GROUP_NOT_VIABLE",
        "0000:00:08.0": "RESET_NONE",
        **dict.fromkeys((PF, *VFS, f"unit of {PF}"), "PF_HAS_VFS"),
        # The holder, which has no KVM in there.
        f"vm:pid-{wide.call('nested.pid', name='holder')}": "VM_NOT_ACCELERATED",
    }


@pytest.mark.parametrize(
    ("function", "answer"),
    [
        pytest.param("0000:06:00.0", "opened", id="behind-a-switch"),
        pytest.param("0000:0a:00.0", "opened", id="port-without-acs"),
        pytest.param("0000:0c:00.0", "opened", id="virtio"),
        pytest.param("0000:00:08.0", "opened", id="on-the-root-bus"),
        pytest.param("0000:09:01.0", "opened", id="bridge-unbound"),
        pytest.param("0000:09:02.0", "device ENODEV", id="no-driver-in-a-viable-group"),
        pytest.param("0000:0b:00.0", "container EPERM", id="audio-with-the-host"),
        pytest.param("0000:01:00.0", "group EBUSY", id="held"),
        pytest.param(PF, "opened", id="pf-with-vfs"),
        pytest.param(VFS[0], "device EACCES", id="vf-of-a-vfio-pf"),
        pytest.param("0000:07:00.0", "group ENOENT", id="host-driver"),
    ],
)
def test_the_kernel_answers(changed: Observation, function: str, answer: str) -> None:
    assert changed.answer(function) == answer


@pytest.mark.parametrize(
    "function",
    [
        pytest.param("0000:06:00.0", id="behind-a-switch"),
        pytest.param("0000:0a:00.0", id="port-without-acs"),
        pytest.param("0000:00:08.0", id="without-any-reset"),
        pytest.param("0000:09:01.0", id="bridge-unbound"),
        pytest.param("0000:09:02.0", id="no-driver-in-a-viable-group"),
        pytest.param("0000:0b:00.0", id="audio-with-the-host"),
        pytest.param("0000:01:00.0", id="held"),
        pytest.param("0000:07:00.0", id="host-driver"),
        pytest.param(PF, id="pf-with-vfs"),
        pytest.param(VFS[0], id="vf-of-a-vfio-pf"),
    ],
)
def test_qemu_starts_or_says_what_was_predicted_after_the_changes(
    wide: Guest, changed: Observation, table: list[Row], function: str
) -> None:
    row, said = start_nested(wide, changed, [function])
    table.append(row)

    assert row.agrees, said


def test_the_holder_is_named(wide: Guest, changed: Observation) -> None:
    finding = changed.report.finding("device-holders", "0000:01:00.0")
    holder = wide.call("nested.pid", name="holder")

    assert finding["code"] == "DEVICE_HELD"
    assert any(re.search(rf"\(pid {holder}\)", row["text"]) for row in finding["evidence"])


def test_a_function_without_a_failure_opens_after_the_changes(changed: Observation) -> None:
    free = [text for text in refused_though_unblamed(changed) if "EBUSY" not in text]

    assert free == []


def test_who_may_not_look_is_told_so(wide: Guest, changed: Observation) -> None:
    """An ordinary user sees less, and nothing that root's report holds against a device passes.

    Units are named after what only root may read: those of both reports are compared by subject.
    """
    report, status = try_check(wide, "as-nobody", as_nobody=True)
    mine, roots = report.verdicts(), changed.report.verdicts()

    assert status == 2
    assert [key for key, verdict in mine.items() if verdict == "UNKNOWN"]
    assert report.code("device-holders", "function:0000:01:00.0") == "HOLDERS_UNKNOWN"
    better = ("PASS", "NOT_APPLICABLE")
    assert {
        key: verdict
        for key, verdict in mine.items()
        if key in roots and verdict in better and roots[key] not in better
    } == {}


def test_a_privileged_holder_has_no_memlock_limit(wide: Guest, changed: Observation) -> None:
    """The kernel asks for CAP_IPC_LOCK first: this holder has mapped more than its limit."""
    assert wide.call("nested.locks_freely", name="holder")
    assert changed.report.code("memory-headroom") != "MEMLOCK_LOW"
