"""Whether a Proxmox mapping's entries for this node are still true of the host.

Proxmox compares group number and ids at each start and refuses a difference. This module must never
call an entry true of which one side could not be read.
"""

from __future__ import annotations

from vfio_agent.checks.inventory import group_of, missing_attribute
from vfio_contract.findings import Evidence, Missing
from vfio_contract.host import Host
from vfio_contract.model import PciFunction
from vfio_contract.vm import MappingEntry, PciMapping, VmDevice, covers, entries_for

_Judged = tuple[list[Evidence], Evidence | None, list[Missing]]


def judge_mapping(host: Host, device: VmDevice) -> _Judged:
    """(stale entries, why the mapping has nothing here or None, what is missing)."""
    mapping = next((m for m in host.facts.mappings or () if m.name == device.mapping), None)
    if mapping is None:
        return [], Evidence("/etc/pve/mapping/pci.cfg", f"no mapping {device.mapping}"), []
    entries = entries_for(mapping, host.facts.host)
    if not entries:
        where = f"{mapping.source}:{mapping.line}"
        return [], Evidence(where, f"no entry for node {host.facts.host}"), []
    stale: list[Evidence] = []
    missing: list[Missing] = []
    for entry in entries:
        _judge_entry(host, mapping, entry, stale, missing)
    return stale, None, missing


def _judge_entry(
    host: Host,
    mapping: PciMapping,
    entry: MappingEntry,
    stale: list[Evidence],
    missing: list[Missing],
) -> None:
    where = f"{mapping.source}:{entry.line}"
    found = [
        next((f for f in host.functions if covers(written, f.address)), None)
        for written in entry.addresses
    ]
    for written, function in zip(entry.addresses, found, strict=True):
        if function is None:
            stale.append(Evidence(where, f"path={written}: this host has no such function"))
    if not entry.addresses:
        stale.append(Evidence(where, "no path that can be read"))
    # Proxmox compares the first function of an entry (PVE::Mapping::PCI, assert_valid).
    first = found[0] if found else None
    if first is None:
        return
    _judge_group(host, entry, first, where, stale, missing)
    for written, have, names in (
        (entry.ids, (first.vendor, first.device), ("vendor", "device")),
        (
            entry.subsystem_ids,
            (first.subsystem_vendor, first.subsystem_device),
            ("subsystem_vendor", "subsystem_device"),
        ),
    ):
        if not written:
            continue
        lost = [n for n, value in zip(names, have, strict=True) if value is None]
        missing += [missing_attribute(host, first, name) for name in lost]
        text = ":".join("????" if value is None else f"{value:04x}" for value in have)
        if not lost and written.replace("0x", "") != text:
            stale.append(Evidence(where, f"id={written}, but {first.address} is {text}"))


def _judge_group(
    host: Host,
    entry: MappingEntry,
    function: PciFunction,
    where: str,
    stale: list[Evidence],
    missing: list[Missing],
) -> None:
    if entry.group < 0:
        return
    group = group_of(host, function)
    if group is None:
        missing.append(missing_attribute(host, function, "iommu_group"))
    elif group != entry.group:
        text = f"iommugroup={entry.group}, but {function.address} is in group {group}: write it"
        stale.append(Evidence(where, text))
