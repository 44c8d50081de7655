"""Which devices are meant for passthrough, and who says so (CHECKS.md, Intended devices).

Only intended devices move a host's verdict; all others are candidates. A device is intended if it
is vfio-bound, named by vfio ids, driver_override, driverctl, a VM's configuration or a mapping, or
claimed. This module must never call a device intended without a reason that can be shown.
"""

from collections.abc import Collection, Iterator

from vfio_contract.address import Address
from vfio_contract.model import Facts, Intent, PciFunction
from vfio_contract.vm import covered_by, covers, entries_for

VFIO_DRIVERS = frozenset(
    {
        "vfio-pci",
        "mlx5_vfio_pci",
        "hisi_acc_vfio_pci",
        "pds_vfio_pci",
        "nvgrace_gpu_vfio_pci",
        "virtio_vfio_pci",
        "qat_vfio_pci",
        "xe_vfio_pci",
    }
)
"""vfio-pci and its in-tree variants up to Linux 6.19 (drivers/vfio/pci/*)."""


def is_vfio_bound(function: PciFunction) -> bool | None:
    """By `<device>/vfio-dev/` (6.1+) or a vfio driver; None when neither could be read."""
    if function.vfio_device:
        return True
    if function.driver is None:
        return None
    return function.driver in VFIO_DRIVERS or function.driver.endswith(("-vfio-pci", "_vfio_pci"))


def find_intentions(facts: Facts, claimed: Collection[Address]) -> dict[Address, tuple[str, ...]]:
    """Reason texts by address, for intended functions only. Bridges are never intended."""
    found: dict[Address, tuple[str, ...]] = {}
    for function in facts.functions or ():
        if function.is_bridge:
            continue
        reasons = (
            *_reasons(function, facts.intents or (), claimed),
            *_vm_reasons(function, facts),
        )
        if reasons:
            found[function.address] = reasons
    return found


def _reasons(
    function: PciFunction, intents: tuple[Intent, ...], claimed: Collection[Address]
) -> list[str]:
    reasons: list[str] = []
    if is_vfio_bound(function):
        reasons.append(f"bound to {function.driver or 'a vfio driver'}")
    override = function.driver_override
    if override and (override in VFIO_DRIVERS or override.endswith("vfio-pci")):
        reasons.append(f"driver_override={override}")
    for intent in intents:
        if names_function(intent, function):
            reasons.append(intent.source)
    if function.address in claimed:
        reasons.append("claimed")
    return reasons


def _vm_reasons(function: PciFunction, facts: Facts) -> Iterator[str]:
    """`vm 101 (/etc/pve/qemu-server/101.conf:7)`: who names it where."""
    for vm in facts.vms or ():
        for device in vm.devices:
            if covered_by(device, facts.mappings, facts.host, function.address):
                yield f"vm {vm.name} ({vm.source}:{device.line})"
                break
    for mapping in facts.mappings or ():
        if mapping.mediated:
            continue
        for entry in entries_for(mapping, facts.host):
            if any(covers(written, function.address) for written in entry.addresses):
                yield f"mapping {mapping.name} ({mapping.source}:{entry.line})"
                break


def names_function(intent: Intent, function: PciFunction) -> bool:
    """True when this written intention is about this function."""
    if intent.kind in ("driverctl", "driver-override"):
        return intent.value == function.address
    if intent.kind != "vfio-ids":
        return False
    wanted = intent.value.lower().split(":")
    have = (
        function.vendor,
        function.device,
        function.subsystem_vendor,
        function.subsystem_device,
    )
    if len(wanted) < 2:
        return False
    for text, value in zip(wanted, have, strict=False):
        if text in ("", "ffffffff", "*"):
            continue
        try:
            number = int(text, 16)
        except ValueError:
            return False
        if value is None or number != value:
            return False
    return True
