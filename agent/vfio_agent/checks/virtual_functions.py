"""Whether a physical function has virtual functions enabled, and what that forbids.

A PF and its VFs are never both assigned: whoever has the PF can take the VFs away from the VMs that
use them. This module must never take an unread VF count for zero.
"""

from vfio_contract.codes import Code
from vfio_contract.findings import Verdict
from vfio_contract.host import Host
from vfio_contract.model import PciFunction

PF_HAS_VFS = Code(
    "PF_HAS_VFS",
    Verdict.FAIL,
    "sriov_numvfs is not 0, or functions name this one as their physfn.",
    "A PF and its VFs are never both assigned: a VM that has the PF can take the VFs from others.",
    "Assign the VFs and leave the PF to the host, or remove the VFs first: echo 0 | sudo tee "
    "/sys/bus/pci/devices/ADDRESS/sriov_numvfs",
)


def judge_vfs(host: Host, function: PciFunction) -> bool | None:
    """True when VFs are enabled on this PF, False when not, None when that is not known."""
    if function.sriov_num_vfs or host.by_address.virtual.get(function.address):
        return True
    if function.sriov_num_vfs == 0 or function.sriov_total_vfs == 0:
        return False
    return None
