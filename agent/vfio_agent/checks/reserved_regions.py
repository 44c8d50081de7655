"""Check `reserved-regions`: whether firmware demands memory of a device that no VM may give it.

Judged per IOMMU group that holds something assignable. It must never blame relaxable regions (boot
graphics, USB) or the MSI window, which every x86 group has.
"""

from vfio_agent.checks.inventory import (
    GROUPS,
    assignable,
    find_remedy,
    group_of,
    is_intended,
    report_nothing,
    ungrouped,
)
from vfio_contract.codes import Code, make_finding
from vfio_contract.findings import NODE, Evidence, Finding, Missing, Verdict
from vfio_contract.host import Host
from vfio_contract.model import NO_GROUP, ReservedRegion

ID = "reserved-regions"

REGIONS_CLEAR = Code(
    "REGIONS_CLEAR",
    Verdict.PASS,
    "reserved_regions of the group names no region of the kind direct.",
    "Firmware demands no fixed mapping for these devices: a VM's memory can be mapped.",
    "No action.",
)
REGIONS_DIRECT = Code(
    "REGIONS_DIRECT",
    Verdict.FAIL,
    "reserved_regions of the group names a region of the kind direct (RMRR, IVMD unity map).",
    'Firmware keeps doing DMA there (management controller, RAID). The kernel refuses the VM: "not '
    'eligible ... due to platform RMRR requirement", or "1:1 IOMMU mapping" in newer ones.',
    "Take the device out of the firmware's shared memory feature (HPE: conrep HPRCU, "
    "'Shared Memory'), update the firmware, or pass another device.",
)
REGIONS_UNKNOWN = Code(
    "REGIONS_UNKNOWN",
    Verdict.UNKNOWN,
    "reserved_regions of the group, or the group itself, could not be read.",
    "Whether the kernel would refuse the device is not known. Unknown is not clear.",
    "Get the missing evidence below, then: vfioctl check",
)
CODES = (REGIONS_CLEAR, REGIONS_DIRECT, REGIONS_UNKNOWN)


def judge(host: Host) -> list[Finding]:
    """Do direct regions (RMRR) stop the group's devices from being given to a VM?

    Evidence: /sys/kernel/iommu_groups/N/reserved_regions.
    Meaning:  A region that firmware wants mapped one to one leaves no room for a VM's own memory.
    Source:   Linux Documentation/ABI/testing/sysfs-kernel-iommu_groups; field guide step - (none).
    """
    wanted: dict[int, list[str]] = {}
    for function in assignable(host):
        number = group_of(host, function)
        if number is not None and number != NO_GROUP:
            wanted.setdefault(number, []).append(function.address)
    found = [_judge_group(host, number) for number in sorted(wanted)]
    if ungrouped(host):
        missing = Missing(GROUPS, find_remedy(host, GROUPS) or f"ls -d {GROUPS}/*/devices/*")
        return [make_finding(ID, NODE, REGIONS_UNKNOWN, missing=(missing,)), *found]
    return found or report_nothing(ID, host, where="in an IOMMU group")


def _judge_group(host: Host, number: int) -> Finding:
    group = host.groups.get(number)
    regions = None if group is None else group.reserved
    path = f"{GROUPS}/{number}/reserved_regions"
    direct = [r for r in regions or () if r.kind == "direct"]
    missing: tuple[Missing, ...] = ()
    if regions is None:
        code = REGIONS_UNKNOWN
        missing = (Missing(path, find_remedy(host, path) or f"cat {path}"),)
    else:
        code = REGIONS_DIRECT if direct else REGIONS_CLEAR
    rows = direct or regions or ()
    evidence = [Evidence(path, _describe(r)) for r in rows]
    if regions == ():
        evidence = [Evidence(path, "empty")]
    return make_finding(
        ID,
        f"group:{number}",
        code,
        *evidence,
        intended=is_intended(host, [m.address for m in host.members.get(number, ())]),
        missing=missing,
    )


def _describe(region: ReservedRegion) -> str:
    return f"0x{region.start:x}-0x{region.end:x} {region.kind}"
