"""A host of which nothing is known: every check says so, and says how to get the evidence."""

import pytest

from tests.fakes.snapshots import silent_host
from vfio_agent.checks import CATALOGUE, Check
from vfio_contract.findings import NODE, Verdict

CODES = {
    "cpu-virtualization": "CPU_VIRT_UNKNOWN",
    "iommu-active": "IOMMU_UNKNOWN",
    "kernel-cmdline": "CMDLINE_UNKNOWN",
    "interrupt-remapping": "IRQ_REMAP_UNKNOWN",
    "vfio-modules": "VFIO_UNKNOWN",
    "acs-override": "ACS_UNKNOWN",
    "memory-headroom": "MEMORY_UNKNOWN",
    "host-contention": "PRESSURE_UNKNOWN",
    "interrupt-distribution": "DISTRIBUTION_UNKNOWN",
    "iommu-faults": "FAULTS_UNKNOWN",
    "device-functions": "INVENTORY_UNKNOWN",
    "group-isolation": "INVENTORY_UNKNOWN",
    "host-critical": "INVENTORY_UNKNOWN",
    "reset-capability": "INVENTORY_UNKNOWN",
    "reset-history": "INVENTORY_UNKNOWN",
    "driver-binding": "INVENTORY_UNKNOWN",
    "device-holders": "INVENTORY_UNKNOWN",
    "sriov": "INVENTORY_UNKNOWN",
    "bar-and-rom": "INVENTORY_UNKNOWN",
    "reserved-regions": "INVENTORY_UNKNOWN",
    "device-health": "INVENTORY_UNKNOWN",
    "vm-machine": "VMS_UNKNOWN",
    "vm-functions": "VMS_UNKNOWN",
    "vm-cpu": "VMS_UNKNOWN",
    "vm-guest-driver": "VMS_UNKNOWN",
    "vm-memory": "VMS_UNKNOWN",
    "vm-display-rom": "VMS_UNKNOWN",
}


@pytest.mark.parametrize("check", CATALOGUE, ids=lambda check: check.id)
def test_nothing_known(check: Check) -> None:
    (finding,) = check.judge(silent_host())
    assert (finding.subject, finding.code) == (NODE, CODES[check.id])
    assert finding.verdict is Verdict.UNKNOWN
    assert finding.missing
    assert all(row.command for row in finding.missing)
