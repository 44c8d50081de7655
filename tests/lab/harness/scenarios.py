"""The machines of the scenarios: those that are captured, under names of their own, and variants.

Each has a name of its own, so that scenarios run side by side and never wait for a capture.
"""

from __future__ import annotations

from dataclasses import replace

from tests.lab.harness.topology import (
    DISPLAY,
    E1000E,
    F11_BOUND,
    MACHINES,
    NVME,
    SMALL_BOUND,
    Machine,
    gpubox,
)

_CAPTURED = {machine.name: machine for machine in MACHINES}


def _variant(name: str, captured: str, **changes: object) -> Machine:
    return replace(_CAPTURED[captured], name=name, **changes)  # type: ignore[arg-type]


WIDE_6_1 = _variant("ready-6.1", "m3-intel-6.1")
WIDE_CHANGED = _variant("changed-6.1", "m3-intel-6.1")
WIDE_6_12 = _variant("ready-6.12", "m3-intel-6.12")
AMD_SMALL = _variant("ready-amd", "amd-6.1", reaches_host=True)
IOMMU_SWITCHED_OFF = _variant("ready-off", "iommu-off")
# The owner asked for an IOMMU that the machine does not have.
IOMMU_ABSENT = _variant("ready-none", "iommu-off", iommu="", cmdline="intel_iommu=on iommu=pt")
NO_INTERRUPT_REMAPPING = _variant("ready-ir-off", "ir-off")

RESETS = _variant("reset-6.1", "m3-intel-6.1")
# Its node joins a cluster; one of its cards will not come back from a reset.
LEDGER = _variant("ledger-6.1", "gpubox-f10", reaches_host=True)
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

# As that one; its node joins a cluster, which is told what happens to it by hand.
LIVE = replace(SRIOV, name="live-6.12", reaches_host=True)
HANDS = replace(SRIOV, name="hands-6.12", reaches_host=True)

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
    reaches_host=True,
)

# One machine before a firmware update and after one of three. F10r only finds the second slot
# first: no address changes, and two groups swap their numbers. The others put a switch ahead of
# everything, which moves every bus and shifts the groups; F11 drops the slots' ACS besides, and
# the graphics card has another BAR there.
# Their owner wrote down where the network card was before: a VM's configuration, and for F11 a
# mapping too.
VM_CONFIG = "/etc/pve/qemu-server/101.conf"
MAPPINGS = "/etc/pve/mapping/pci.cfg"
_WRITTEN = (
    "mkdir -p /etc/pve/qemu-server /etc/pve/mapping",
    f"printf 'machine: q35\\nbios: ovmf\\nhostpci0: 0000:01:00.0,pcie=1\\n' >{VM_CONFIG}",
)
_MAPPED = (
    "printf 'disk\\n\\tmap id=1b36:0010,iommugroup=11,node=update-f11,path=0000:02:00.0\\n' "
    f">{MAPPINGS}",
)
UPDATE_F10 = _variant(
    "update-f10",
    "gpubox-f10",
    setup=(*_WRITTEN, *_CAPTURED["gpubox-f10"].setup),
    reaches_host=True,
)
# Another machine of the same make, which stays as it is.
PEER = _variant(
    "update-peer",
    "gpubox-f10",
    firmware=replace(
        _CAPTURED["gpubox-f10"].firmware,
        uuid="6c616221-0016-4000-8000-000000000016",
        serial="ACME0016",
    ),
    devices=gpubox(16, acs=True, switch=False),
    reaches_host=True,
)
UPDATE_F10R = _variant(
    "update-f10r",
    "gpubox-f10",
    firmware=replace(_CAPTURED["gpubox-f10"].firmware, version="F10r", date="02/03/2025"),
    setup=(
        "echo 1 >/sys/bus/pci/devices/0000:01:00.0/remove",
        "echo 1 >/sys/bus/pci/devices/0000:02:00.0/remove",
        # The lowest free group number goes to whoever is found first.
        "echo 1 >/sys/class/pci_bus/0000:02/rescan",
        "echo 1 >/sys/class/pci_bus/0000:01/rescan",
        *UPDATE_F10.setup,
    ),
    reaches_host=True,
)
UPDATE_F10A = _variant(
    "update-f10a",
    "gpubox-f10",
    firmware=replace(_CAPTURED["gpubox-f10"].firmware, version="F10a", date="03/04/2025"),
    devices=gpubox(6, acs=True, switch=True),
    setup=UPDATE_F10.setup,
    bound=F11_BOUND,
    reaches_host=True,
)
UPDATE_F11 = _variant(
    "update-f11",
    "gpubox-f11",
    devices=tuple(
        device.replace("bochs-display,", "bochs-display,vgamem=32M,")
        for device in _CAPTURED["gpubox-f11"].devices
    ),
    setup=(*UPDATE_F10.setup, *_MAPPED),
    reaches_host=True,
)

# Three nodes of one cluster, each with a NIC, an NVMe drive and a graphics card. Only the first's
# card can go to a VM: the second's audio function is with the host, the third cannot remap
# interrupts.
NODE_CLEAN = _variant("node-clean", "gpubox-f10", reaches_host=True)
NODE_DIRTY = _variant(
    "node-dirty",
    "amd-6.1",
    vfio_ids=(E1000E, NVME, DISPLAY),
    bound=SMALL_BOUND[:3],
    reaches_host=True,
)
NODE_IR_OFF = _variant("node-ir-off", "ir-off", reaches_host=True)

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
    *(RESETS, LEDGER, BROKEN_BUS_RESET, SRIOV, LIVE, HANDS, HOTPLUG),
    *(UPDATE_F10, UPDATE_F10R, UPDATE_F10A, UPDATE_F11, PEER, NODE_CLEAN, NODE_DIRTY, NODE_IR_OFF),
)
