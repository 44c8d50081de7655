"""The machines of the scenarios: those that are captured, under names of their own, and variants.

Each has a name of its own, so that scenarios run side by side and never wait for a capture.
"""

from __future__ import annotations

from dataclasses import replace

from tests.lab.harness.topology import MACHINES, SMALL_BOUND, Machine

_CAPTURED = {machine.name: machine for machine in MACHINES}


def _variant(name: str, captured: str, **changes: object) -> Machine:
    return replace(_CAPTURED[captured], name=name, **changes)  # type: ignore[arg-type]


WIDE_6_1 = _variant("ready-6.1", "m3-intel-6.1")
WIDE_CHANGED = _variant("changed-6.1", "m3-intel-6.1")
WIDE_6_12 = _variant("ready-6.12", "m3-intel-6.12")
AMD_SMALL = _variant("ready-amd", "amd-6.1")
IOMMU_SWITCHED_OFF = _variant("ready-off", "iommu-off")
# The owner asked for an IOMMU that the machine does not have.
IOMMU_ABSENT = _variant("ready-none", "iommu-off", iommu="", cmdline="intel_iommu=on iommu=pt")
NO_INTERRUPT_REMAPPING = _variant("ready-ir-off", "ir-off")

RESETS = _variant("reset-6.1", "m3-intel-6.1")
BROKEN_BUS_RESET = _variant("reset-broken", "gpubox-f10", bus_reset_broken=True)

# The igb stays with the host; its owner makes and removes virtual functions by hand.
SRIOV = _variant(
    "sriov-6.12",
    "amd-6.1",
    kernel="6.12",
    iommu=_CAPTURED["m3-intel-6.12"].iommu,
    cmdline="intel_iommu=on iommu=pt",
    devices=(
        *_CAPTURED["amd-6.1"].devices,
        "pcie-root-port,id=rp3,chassis=3,slot=3,bus=pcie.0,addr=3.0",
        "igb,bus=rp3,netdev=igb0,mac=52:54:00:21:00:03",
    ),
    bound=("0000:01:00.0", "0000:02:00.0", "0000:04:00.0", "0000:04:00.1"),
)

# Two empty slots, behind ports that come last: the buses of everything else stay.
HOTPLUG = _variant(
    "hotplug-6.12",
    "amd-6.1",
    kernel="6.12",
    iommu=_CAPTURED["m3-intel-6.12"].iommu,
    cmdline="intel_iommu=on iommu=pt",
    devices=(
        *_CAPTURED["amd-6.1"].devices,
        "pcie-root-port,id=rp10,chassis=10,slot=10,bus=pcie.0,addr=a.0",
        "pcie-root-port,id=rp11,chassis=11,slot=11,bus=pcie.0,addr=b.0",
    ),
    # Cards of the id in modprobe.d would be taken at once; the scenario binds by address.
    vfio_ids=tuple(i for i in _CAPTURED["amd-6.1"].vfio_ids if i != "8086:10d3"),
    driverctl=("0000:01:00.0",),
    bound=SMALL_BOUND,
)

SCENARIOS = (
    *(
        WIDE_6_1,
        WIDE_CHANGED,
        WIDE_6_12,
        AMD_SMALL,
        IOMMU_SWITCHED_OFF,
        IOMMU_ABSENT,
        NO_INTERRUPT_REMAPPING,
    ),
    *(RESETS, BROKEN_BUS_RESET, SRIOV, HOTPLUG),
)
