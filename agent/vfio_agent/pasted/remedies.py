"""What pasted evidence lacks, each with the command whose output can be pasted next.

A collector's own remedy is for the host that it reads; here the answer comes by way of a person, so
the command must be one whose output is recognised, or the one that records everything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import replace

from vfio_agent.pasted.inventory import Inventory
from vfio_contract.findings import Missing, Report, summarise
from vfio_contract.model import Gap, Snapshot

DEVICES = "/sys/bus/pci/devices"
GROUPS = "/sys/kernel/iommu_groups"
LOG = "/dmesg"

_LSPCI = "sudo lspci -nnvvxxxx"
_GROUP_LIST = "find /sys/kernel/iommu_groups -type l"
_RECORD = "sudo vfioctl collect -o host.json"

_PASTEABLE = {
    DEVICES: _LSPCI,
    GROUPS: _GROUP_LIST,
    LOG: "sudo dmesg",
    "/sys/class/iommu": "ls /sys/class/iommu",
    "/dev": "ls -l /dev/kvm",
    "/dev/kvm": "ls -l /dev/kvm",
    "/proc/cmdline": "cat /proc/cmdline",
    "/proc/cpuinfo": "lscpu",
    "/proc/interrupts": "cat /proc/interrupts",
    "/proc/modules": "lsmod",
    "/proc/version": "uname -a",
    "/proc/sys/kernel/hostname": "uname -a",
    "/dev/vfio": "sudo lsof /dev/vfio/*",
    "/proc/meminfo": "cat /proc/meminfo",
    "/etc/default/grub": "cat /etc/default/grub",
    "/etc/modprobe.d": "grep -r . /etc/modprobe.d",
    "/etc/pve/qemu-server": "qm config VMID",
    "/etc/pve/mapping/pci.cfg": "cat /etc/pve/mapping/pci.cfg",
    "/etc/libvirt/qemu": "virsh dumpxml NAME",
}


_ATTRIBUTES = {
    "class": "lspci -nn",
    "vendor": "lspci -nn",
    "driver": "lspci -nnk",
    "config": _LSPCI,
    "iommu_group": _GROUP_LIST,
}
_ATTRIBUTE = re.compile(rf"{DEVICES}/[0-9a-f:]{{10,16}}\.[0-7](?:/(\w+))?$")
_OF_GROUP = re.compile(rf"{GROUPS}/\d+/(\w+)$")


def reword_report(report: Report) -> Report:
    """The same report, with what is missing of many functions said once, as one command to paste.

    Checks name each function's file, which is right on a host; a person pastes whole lists.
    """
    findings = (
        replace(f, missing=tuple(dict.fromkeys(_reword_missing(m) for m in f.missing)))
        for f in report.findings
    )
    return summarise(report.host, findings)


def _reword_missing(missing: Missing) -> Missing:
    attribute = _ATTRIBUTE.match(missing.evidence)
    if attribute is not None and attribute[1] is None:
        return Missing("the place of each function below the bridges", _LSPCI)
    if attribute is not None:
        path = f"{DEVICES}/*/{attribute[1]}"
        return Missing(path, _ATTRIBUTES.get(attribute[1], _RECORD))
    of_group = _OF_GROUP.match(missing.evidence)
    if of_group is not None:
        return Missing(f"{GROUPS}/*/{of_group[1]}", _RECORD)
    if missing.evidence in ("/sys/module", DEVICES, GROUPS):
        return Missing(missing.evidence, _PASTEABLE.get(missing.evidence, "lsmod"))
    return missing


def settle_gaps(snapshot: Snapshot, inventory: Inventory) -> list[Gap]:
    """The collectors' gaps without those that the listings closed, with commands to paste from.

    A list that may be an excerpt leaves a gap at its own path, although it was given: the checks
    read that as "there may be more" (see `vfio_agent.checks.inventory`).
    """
    facts, readings = snapshot.facts, snapshot.readings
    closed = {
        DEVICES: facts.functions is not None,
        GROUPS: facts.groups is not None,
        "/sys/class/iommu": facts.iommu_units is not None,
        "/dev": facts.kvm_device is not None,
        "/dev/vfio": readings.holders is not None,
        LOG: readings.kernel_log is not None,
    }
    kept = [
        _reword(gap)
        for gap in readings.gaps
        if not any(known and _is_at(gap.path, path) for path, known in closed.items())
    ]
    kept += _doubt(DEVICES, inventory.doubts, _LSPCI)
    kept += _doubt(GROUPS, inventory.group_doubts, _GROUP_LIST)
    return kept


def _is_at(path: str, folder: str) -> bool:
    # of /dev only the folder itself and kvm are answered by a listing of /dev/kvm
    if folder == "/dev":
        return path in ("/dev", "/dev/kvm")
    return path == folder or path.startswith(f"{folder}/")


def _reword(gap: Gap) -> Gap:
    remedy = _PASTEABLE.get(gap.path, _RECORD)
    return Gap(path=gap.path, errno=0, reason="not given", remedy=remedy)


def _doubt(path: str, doubts: Iterable[str], remedy: str) -> list[Gap]:
    reasons = list(doubts)
    if not reasons:
        return []
    return [Gap(path, 0, f"given, perhaps not whole: {'; '.join(reasons[:3])}", remedy)]
